//! Cutting a launch into tasks. How it is cut never changes a result.

use std::{cmp::Reverse, ops::Range};

use crate::cpu::attention::micro::TILE;

/// Query rows that are worked on together: their scores fit the first-level cache.
pub(super) const BLOCK_ROWS: usize = 12;

/// Most query rows of a task: their queries and outputs stay in the second-level cache.
const MAX_TASK_ROWS: usize = 192;

/// One sequence of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    /// First query row in the launch, and how many.
    pub(super) row: usize,
    pub(super) count: usize,
    /// Keys; the last query's position is `context - 1`.
    pub(super) context: usize,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask {
    pub(super) causal: bool,
    /// Positions that a query sees at most, its own included.
    pub(super) window: usize,
}

/// Consecutive queries of one sequence, against one head of keys and values.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) seq: usize,
    pub(super) kv_head: usize,
    /// First query row in the launch, and how many.
    pub(super) row: usize,
    pub(super) count: usize,
    /// Position of the first query in its sequence.
    position: usize,
    context: usize,
    mask: Mask,
    /// The tiles of keys that this task reads.
    pub(super) tiles: Range<usize>,
    /// Where the task's result goes if its tile is one of several shared out: first row of the parts.
    pub(super) part: Option<usize>,
}

impl Task {
    /// Keys that query `index` of the task sees, first and one after the last.
    pub(super) fn visible(&self, index: usize) -> (usize, usize) {
        let position = self.position + index;
        let to = if self.mask.causal {
            position + 1
        } else {
            self.context
        };
        ((position + 1).saturating_sub(self.mask.window), to)
    }

    /// Keys that some query of the task sees.
    fn extent(&self) -> (usize, usize) {
        (self.visible(0).0, self.visible(self.count - 1).1)
    }

    /// Keys of `tile` that some query of the task sees.
    pub(super) fn extent_in(&self, tile: usize) -> (usize, usize) {
        let (from, to) = self.extent();
        (from.max(tile * TILE), to.min((tile + 1) * TILE))
    }

    fn cost(&self) -> usize {
        let (from, to) = self.extent();
        (to.min(self.tiles.end * TILE) - from.max(self.tiles.start * TILE)) * self.count
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) num_kv_heads: usize,
    /// Query heads a head of keys.
    pub(super) group: usize,
    pub(super) mask: Mask,
    pub(super) threads: usize,
}

/// The tasks of a launch, and the parts of those whose tiles are shared out.
#[derive(Debug)]
pub(super) struct Plan {
    /// The longest first, so that the threads finish together.
    pub(super) tasks: Vec<Task>,
    /// Tasks as they were before their tiles were shared out, with the first row of their first part. The
    /// part of each tile follows that of the tile before.
    pub(super) shared: Vec<(Task, usize)>,
    /// Rows of all parts.
    pub(super) part_rows: usize,
}

/// Cuts the sequences into tasks.
pub(super) fn plan(sequences: &[Sequence], shape: Shape) -> Plan {
    let block = (BLOCK_ROWS / shape.group).max(1);
    let positions: usize = sequences.iter().map(|seq| seq.count).sum();
    let per_task = (positions * shape.num_kv_heads / (8 * shape.threads)).next_multiple_of(block);
    let per_task = per_task.clamp(block, (MAX_TASK_ROWS / shape.group).max(block));
    let mut whole = Vec::new();
    for (index, sequence) in sequences.iter().enumerate() {
        for from in (0..sequence.count).step_by(per_task) {
            for kv_head in 0..shape.num_kv_heads {
                let mut task = Task {
                    seq: index,
                    kv_head,
                    row: sequence.row + from,
                    count: per_task.min(sequence.count - from),
                    position: sequence.context - sequence.count + from,
                    context: sequence.context,
                    mask: shape.mask,
                    tiles: 0..0,
                    part: None,
                };
                let (from, to) = task.extent();
                task.tiles = from / TILE..to.div_ceil(TILE);
                whole.push(task);
            }
        }
    }
    share_tiles(whole, block, shape)
}

/// Where there are too few tasks for the threads (decoding a long context), gives each tile of a small one
/// to a task of its own.
fn share_tiles(whole: Vec<Task>, block: usize, shape: Shape) -> Plan {
    let mut plan = Plan {
        tasks: Vec::new(),
        shared: Vec::new(),
        part_rows: 0,
    };
    let few = shape.threads > 1 && whole.len() < 4 * shape.threads;
    for task in whole {
        if !few || task.tiles.len() == 1 || task.count > block {
            plan.tasks.push(task);
            continue;
        }
        let first = plan.part_rows;
        for tile in task.tiles.clone() {
            plan.tasks.push(Task {
                tiles: tile..tile + 1,
                part: Some(plan.part_rows),
                ..task.clone()
            });
            plan.part_rows += task.count * shape.group;
        }
        plan.shared.push((task, first));
    }
    plan.tasks.sort_by_key(|task| Reverse(task.cost()));
    plan
}
