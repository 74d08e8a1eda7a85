//! Products with a packed matrix: tiles of 16 weight rows x 16 activation rows, shared out among the threads.
#![allow(unsafe_code)]

use super::{
    Output,
    packed::{BLOCK, GROUP, PackedMatrix},
    quantize::{TILE, Terms, Tiling, quantize_tile},
    tile::{Kernel, Strip, Tile},
};
use crate::cpu::{AlignedBuf, Isa, ThreadPool};

/// Bytes of quantized activations that stay in a core's cache while groups of weight rows pass by.
const PANEL_BYTES: usize = 512 << 10;

/// Bytes of weights that stay in the nearest cache while tiles of activations pass by.
const CHUNK_BYTES: usize = 24 << 10;

/// Activations below which rounding is not worth another thread.
const MIN_QUANTIZE_LEN: usize = 2048;

/// Bytes of weights below which a task of its own is not worth its launch.
const MIN_TASK_BYTES: usize = 16 << 10;

/// Tasks a thread: enough to balance threads of unequal speed.
const TASKS_A_THREAD: usize = 4;

/// Activations of one product, quantized for one kind of weights.
pub(super) struct Activations<'a> {
    tiling: Tiling,
    bytes: &'a [u8],
}

impl<'a> Activations<'a> {
    /// Quantizes `x`, `(rows, cols)`, into `scratch`, which grows as needed; `None` if there is no memory.
    pub(super) fn quantize(
        (pool, isa): (&ThreadPool, Isa),
        x: &[f32],
        (rows, cols): (usize, usize),
        terms: Terms,
        scratch: &'a mut AlignedBuf<u8>,
    ) -> Option<Self> {
        let blocks = cols / BLOCK;
        let tiling = Tiling {
            rows,
            blocks,
            terms,
            pairs: isa == Isa::Amx && blocks.is_multiple_of(2) && !matches!(terms, Terms::ZeroHalves(_)),
        };
        let len = tiling.len_bytes();
        if scratch.len() < len {
            *scratch = AlignedBuf::zeroed(len)?;
        }
        if tiling.tiles() == 1 {
            // A decode step: the threads share the blocks.
            let (unit_bytes, unit_blocks) = tiling.unit_of(0);
            let tasks = pool.threads().min(rows * cols / MIN_QUANTIZE_LEN).max(1);
            let units = (blocks / unit_blocks).div_ceil(tasks);
            pool.run_chunks(&mut scratch[..len], units * unit_bytes, |task, bytes| {
                quantize_tile(isa, &tiling, (0, task * units * unit_blocks), x, bytes);
            });
        } else {
            let tile_bytes = tiling.start_of(1).max(1);
            pool.run_chunks(&mut scratch[..len], tile_bytes, |tile, bytes| {
                quantize_tile(isa, &tiling, (tile, 0), x, bytes);
            });
        }
        Some(Self {
            tiling,
            bytes: &scratch[..len],
        })
    }
}

/// Computes `out[.., ..matrix.rows] = x . matrix^T (+ bias)`.
pub(super) fn multiply(
    (pool, isa): (&ThreadPool, Isa),
    x: &Activations<'_>,
    matrix: &PackedMatrix,
    out: &Output<'_>,
) {
    let plan = Plan::new(pool.threads(), &x.tiling, matrix);
    let groups_a_chunk = (CHUNK_BYTES / matrix.group_bytes().max(1)).max(1);
    pool.run(plan.tasks(), |task| {
        let (groups, tiles) = plan.task(task);
        let mut kernel = Kernel::new(isa, matrix.format);
        // Weights that only one tile of activations needs are read once anyway.
        let groups_a_chunk = if tiles.len() > 1 {
            groups_a_chunk
        } else {
            groups.len()
        };
        for first in groups.clone().step_by(groups_a_chunk) {
            let end = groups.end.min(first + groups_a_chunk);
            for tile in tiles.clone() {
                let (quants, scales) = matrix.group(first);
                let col = first * GROUP;
                let tile = Tile {
                    format: matrix.format,
                    quants: quants.as_ptr(),
                    scales: scales.as_ptr(),
                    blocks: matrix.blocks(),
                    x: x.bytes[x.tiling.start_of(tile)..].as_ptr(),
                    rows: x.tiling.rows_of(tile),
                    paired: x.tiling.is_paired(tile),
                    out: out.at(tile * TILE, col),
                    out_stride: out.stride(),
                    cols: matrix.rows.min(end * GROUP) - col,
                    bias: out.bias_at(col),
                };
                let strip = Strip::new(tile, end - first, matrix.group_bytes());
                // SAFETY: a backend has an `Isa` only if the processor does. The groups have the blocks
                // that their matrix was packed with, the tile as many records, quantized for this format's
                // terms. `out` holds all rows and columns; this task alone writes the columns of its
                // groups in the rows of its tiles.
                unsafe { kernel.compute(&strip) };
            }
        }
    });
}

/// Which groups of weight rows and tiles of activations a task takes.
#[derive(Debug)]
struct Plan {
    groups: usize,
    groups_a_task: usize,
    tiles: usize,
    tiles_a_task: usize,
}

impl Plan {
    fn new(threads: usize, tiling: &Tiling, matrix: &PackedMatrix) -> Self {
        let (groups, tiles) = (matrix.groups(), tiling.tiles());
        let tile_bytes = tiling.start_of(1).max(1);
        let mut tiles_a_task = (PANEL_BYTES / tile_bytes).clamp(1, tiles.max(1));
        let min_groups = MIN_TASK_BYTES.div_ceil(matrix.group_bytes() * tiles_a_task.max(1));
        let panels = tiles.div_ceil(tiles_a_task);
        let wanted = (threads * TASKS_A_THREAD).div_ceil(panels);
        let groups_a_task = groups.div_ceil(wanted).max(min_groups).max(1);
        // A narrow matrix and many threads: cut the panels further.
        let tasks = groups.div_ceil(groups_a_task) * panels;
        if tasks < threads {
            tiles_a_task = tiles_a_task.div_ceil(threads.div_ceil(tasks));
        }
        Self {
            groups,
            groups_a_task,
            tiles,
            tiles_a_task,
        }
    }

    fn spans(&self) -> usize {
        self.groups.div_ceil(self.groups_a_task)
    }

    fn tasks(&self) -> usize {
        self.spans() * self.tiles.div_ceil(self.tiles_a_task)
    }

    /// Panels are outermost, so that a thread keeps one in its cache over its spans of groups.
    fn task(&self, task: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let group = task % self.spans() * self.groups_a_task;
        let tile = task / self.spans() * self.tiles_a_task;
        (
            group..self.groups.min(group + self.groups_a_task),
            tile..self.tiles.min(tile + self.tiles_a_task),
        )
    }
}
