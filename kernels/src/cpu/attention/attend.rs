//! One task of attention: queries against the tiles of one head of keys and values.

use std::ops::Range;

use crate::{
    cpu::{
        attention::{
            block::Block,
            element::Element,
            micro::{AHEAD, GROUPS, TILE, Tile},
            plan::{BLOCK_ROWS, Task},
            scratch::padded,
            softmax::{RowState, merge},
            source::{GroupCopy, Source},
        },
        lanes::{Kernel, LANES, Lanes},
        pool::SyncPtr,
    },
    ops::HeadLayout,
};

/// Query rows from which copying a tile (widened to f32, transposed where need be) costs less than it saves.
const COPY_FROM_ROWS: usize = 24;

/// What the tasks of a launch share.
pub(super) struct Launch<'a, K> {
    /// `(rows, qkv_width)`.
    pub(super) qkv: &'a [f32],
    pub(super) heads: HeadLayout,
    /// Of the scores, in units of log2.
    pub(super) scale: f32,
    pub(super) source: K,
    /// `(rows, q_width)`; tasks write disjoint parts.
    pub(super) out: SyncPtr<f32>,
    /// `(part rows, part_row_len)`; tasks write disjoint rows.
    pub(super) parts: SyncPtr<f32>,
}

impl<'a, K> Launch<'a, K> {
    /// A launch over `(qkv, heads, scale)`.
    pub(super) fn new(
        (qkv, heads, scale): (&'a [f32], HeadLayout, f32),
        source: K,
        out: SyncPtr<f32>,
    ) -> Self {
        Self {
            qkv,
            heads,
            scale: scale * std::f32::consts::LOG2_E,
            source,
            out,
            parts: SyncPtr(std::ptr::null_mut()),
        }
    }

    /// Query heads a head of keys.
    pub(super) fn group(&self) -> usize {
        self.heads.num_heads / self.heads.num_kv_heads
    }

    /// Width of an output row in working memory.
    fn width(&self) -> usize {
        padded(self.heads.head_dim)
    }

    /// Elements of one row of a part: its [`RowState`], then its weighted sum.
    pub(super) fn part_row_len(&self) -> usize {
        LANES + self.width()
    }

    /// Elements of working memory for a task.
    pub(super) fn scratch_len(&self, task: &Task) -> usize {
        let rows = task.count * self.group();
        let width = self.width();
        padded(rows * self.heads.head_dim)
            + rows * width
            + 2 * padded(rows)
            + BLOCK_ROWS * (TILE + width)
            + TILE * (self.heads.head_dim + width)
    }
}

/// Working memory of a task.
struct Workspace<'a> {
    /// `(rows, head_dim)`, scaled.
    q: &'a mut [f32],
    /// `(rows, width)`: weighted sums so far.
    out: &'a mut [f32],
    /// `(rows)`: [`RowState`] so far.
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// `(BLOCK_ROWS, TILE)`.
    scores: &'a mut [f32],
    /// `(BLOCK_ROWS, width)`: weighted sums of the tile.
    sums: &'a mut [f32],
    /// `(GROUPS, head_dim, 16)`.
    keys: &'a mut [f32],
    /// `(TILE, width)`.
    values: &'a mut [f32],
}

/// Runs one task.
pub(super) struct Attend<'a, K> {
    pub(super) launch: &'a Launch<'a, K>,
    pub(super) task: &'a Task,
    /// [`Launch::scratch_len`] elements.
    pub(super) scratch: &'a mut [f32],
}

impl<K: Source> Kernel for Attend<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self {
            launch,
            task,
            scratch,
        } = self;
        let mut work = launch.split(task, scratch);
        launch.load_queries(task, &mut work);
        for tile in task.tiles.clone() {
            let (from, to) = task.extent_in(tile);
            let groups = (from - tile * TILE) / LANES..(to - tile * TILE).div_ceil(LANES);
            if let Some(keys_values) = launch.tile_in_place(task, tile, groups.clone()) {
                launch.attend_tile(s, task, (tile, &keys_values), &mut work);
            } else {
                let keys_values = launch.copy_tile(s, task, (tile, groups, to), &mut work);
                launch.attend_tile(s, task, (tile, &keys_values), &mut work);
            }
        }
        match task.part {
            Some(first) => launch.store_part(task, first, &work),
            None => launch.store_output(task, &work),
        }
    }
}

impl<K: Source> Launch<'_, K> {
    fn split<'s>(&self, task: &Task, scratch: &'s mut [f32]) -> Workspace<'s> {
        let rows = task.count * self.group();
        let (head_dim, width) = (self.heads.head_dim, self.width());
        let mut rest = scratch;
        let mut take = |len: usize| {
            rest.split_off_mut(..len)
                .expect("scratch_len is the sum of these")
        };
        let work = Workspace {
            q: take(padded(rows * head_dim)),
            out: take(rows * width),
            max: take(padded(rows)),
            sum: take(padded(rows)),
            scores: take(BLOCK_ROWS * TILE),
            sums: take(BLOCK_ROWS * width),
            keys: take(TILE * head_dim),
            values: take(TILE * width),
        };
        work.max.fill(RowState::EMPTY.max);
        work.sum.fill(RowState::EMPTY.sum);
        work
    }

    #[inline(always)]
    fn load_queries(&self, task: &Task, work: &mut Workspace<'_>) {
        let len = self.group() * self.heads.head_dim;
        for (i, q) in work.q[..task.count * len].chunks_exact_mut(len).enumerate() {
            let row = &self.qkv[(task.row + i) * self.heads.qkv_width()..];
            for (q, x) in q.iter_mut().zip(&row[task.kv_head * len..]) {
                *q = x * self.scale;
            }
        }
    }

    /// The tile where it is stored, unless it is better copied.
    #[inline(always)]
    fn tile_in_place(&self, task: &Task, tile: usize, groups: Range<usize>) -> Option<Tile<K::E>> {
        let (key_stride, value_stride) = self.source.strides();
        if size_of::<K::E>() < 4 && task.count * self.group() >= COPY_FROM_ROWS {
            return None;
        }
        let mut found = Tile {
            keys: [std::ptr::null(); GROUPS + AHEAD],
            key_stride,
            values: [std::ptr::null(); GROUPS],
            value_stride,
        };
        for group in groups {
            let position = tile * TILE + group * LANES;
            let [keys, values] = self.source.in_place(task.seq, task.kv_head, position)?;
            (found.keys[group], found.values[group]) = (keys, values);
        }
        if tile + 1 < task.tiles.end {
            let (from, to) = task.extent_in(tile + 1);
            let ahead = from / LANES..to.div_ceil(LANES).min(from / LANES + AHEAD);
            for (next, group) in found.keys[GROUPS..].iter_mut().zip(ahead) {
                let [keys, _] = self.source.in_place(task.seq, task.kv_head, group * LANES)?;
                *next = keys;
            }
        }
        Some(found)
    }

    #[inline(always)]
    fn copy_tile<S: Lanes>(
        &self,
        s: S,
        task: &Task,
        (tile, groups, limit): (usize, Range<usize>, usize),
        work: &mut Workspace<'_>,
    ) -> Tile<f32> {
        let (key_len, value_len) = (LANES * self.heads.head_dim, LANES * self.width());
        let mut copied = Tile {
            keys: [std::ptr::null(); GROUPS + AHEAD],
            key_stride: LANES,
            values: [std::ptr::null(); GROUPS],
            value_stride: self.width(),
        };
        for group in groups {
            let keys = &mut work.keys[group * key_len..][..key_len];
            let values = &mut work.values[group * value_len..][..value_len];
            (copied.keys[group], copied.values[group]) = (keys.as_ptr(), values.as_ptr());
            let at = (task.seq, task.kv_head, tile * TILE + group * LANES);
            self.source.copy(s, at, GroupCopy { keys, values, limit });
        }
        copied
    }

    /// Adds one tile to every query that sees some of it.
    #[inline(always)]
    fn attend_tile<S: Lanes, E: Element>(
        &self,
        s: S,
        task: &Task,
        (tile, keys_values): (usize, &Tile<E>),
        work: &mut Workspace<'_>,
    ) {
        let (group, width, head_dim) = (self.group(), self.width(), self.heads.head_dim);
        let start = tile * TILE;
        // Both ends of what a query sees rise with its position, so that the queries that see some of the
        // tile are consecutive.
        let sees = |i: usize| task.visible(i).1 > start;
        let first = (0..task.count).find(|&i| sees(i)).unwrap_or(task.count);
        let passed = |i: usize| task.visible(i).0 >= start + TILE;
        let end = (first..task.count).find(|&i| passed(i)).unwrap_or(task.count);
        for row in (first * group..end * group).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(end * group - row);
            let mut ranges = [(0, 0); BLOCK_ROWS];
            for (r, range) in ranges.iter_mut().enumerate().take(rows) {
                let (from, to) = task.visible((row + r) / group);
                *range = (from.max(start) - start, to.min(start + TILE) - start);
            }
            let mut block = Block {
                tile: keys_values,
                head_dim,
                width,
                rows,
                ranges,
                q: &work.q[row * head_dim..],
                scores: work.scores,
                sums: work.sums,
            };
            let parts = block.attend(s);
            for (r, part) in parts.into_iter().enumerate().take(rows) {
                let at = row + r;
                let mut state = RowState {
                    max: work.max[at],
                    sum: work.sum[at],
                };
                let out = &mut work.out[at * width..][..width];
                merge(s, &mut state, out, part, &work.sums[r * width..][..width]);
                (work.max[at], work.sum[at]) = (state.max, state.sum);
            }
        }
    }

    /// Keeps what the task has found for [`Combine`].
    fn store_part(&self, task: &Task, first: usize, work: &Workspace<'_>) {
        let (width, row_len) = (self.width(), self.part_row_len());
        for row in 0..task.count * self.group() {
            // SAFETY: `parts` holds the rows that the plan has counted, and each is written by one task.
            let to = unsafe {
                let to = self.parts.get().add((first + row) * row_len);
                std::slice::from_raw_parts_mut(to, row_len)
            };
            (to[0], to[1]) = (work.max[row], work.sum[row]);
            to[LANES..].copy_from_slice(&work.out[row * width..][..width]);
        }
    }

    fn store_output(&self, task: &Task, work: &Workspace<'_>) {
        let (group, width, head_dim) = (self.group(), self.width(), self.heads.head_dim);
        for row in 0..task.count * group {
            let values = &work.out[row * width..][..head_dim];
            self.store_row(task, row, 1.0 / work.sum[row], values);
        }
    }

    /// Writes `values * scale` to the output of query row `row` of the task.
    fn store_row(&self, task: &Task, row: usize, scale: f32, values: &[f32]) {
        let (group, head_dim) = (self.group(), self.heads.head_dim);
        let head = task.kv_head * group + row % group;
        let at = (task.row + row / group) * self.heads.q_width() + head * head_dim;
        // SAFETY: `out` holds a row of `q_width` for each query row; each is part of one task for each head.
        let out = unsafe { std::slice::from_raw_parts_mut(self.out.get().add(at), head_dim) };
        for (out, value) in out.iter_mut().zip(values) {
            *out = value * scale;
        }
    }
}

/// Puts together the parts of a task whose tiles were shared out, in the order of the tiles.
pub(super) struct Combine<'a, K> {
    pub(super) launch: &'a Launch<'a, K>,
    pub(super) task: &'a Task,
    /// First row of the first part; the others follow.
    pub(super) first: usize,
    /// [`Launch::scratch_len`] elements.
    pub(super) scratch: &'a mut [f32],
}

impl<K: Source> Kernel for Combine<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self {
            launch,
            task,
            first,
            scratch,
        } = self;
        let (width, row_len) = (launch.width(), launch.part_row_len());
        let rows = task.count * launch.group();
        let out = &mut scratch[..width];
        for row in 0..rows {
            let mut state = RowState::EMPTY;
            for part in 0..task.tiles.len() {
                // SAFETY: the part was written by a task of the launch before this one.
                let part = unsafe {
                    let from = launch.parts.get().add((first + part * rows + row) * row_len);
                    std::slice::from_raw_parts(from, row_len)
                };
                let found = RowState {
                    max: part[0],
                    sum: part[1],
                };
                merge(s, &mut state, out, found, &part[LANES..]);
            }
            launch.store_row(task, row, 1.0 / state.sum, &out[..launch.heads.head_dim]);
        }
    }
}
