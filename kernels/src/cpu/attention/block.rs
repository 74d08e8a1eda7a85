//! A block of query rows against one tile of keys and values.

use crate::cpu::{
    attention::{
        element::Element,
        micro::{MAX_ROWS, Scores, TILE, Tile, WeightedSum},
        plan::BLOCK_ROWS,
        softmax::{RowState, softmax},
    },
    lanes::{LANES, Lanes},
};

/// Rows that each see at least one key of the tile.
pub(super) struct Block<'a, E> {
    pub(super) tile: &'a Tile<E>,
    pub(super) head_dim: usize,
    /// Row width of `sums`.
    pub(super) width: usize,
    /// Number of rows.
    pub(super) rows: usize,
    /// Keys that each row sees, first and one after the last, within the tile. Neither end ever decreases.
    pub(super) ranges: [(usize, usize); BLOCK_ROWS],
    /// `(rows, head_dim)`, scaled.
    pub(super) q: &'a [f32],
    /// `(rows, TILE)`.
    pub(super) scores: &'a mut [f32],
    /// `(rows, width)`: the result, unnormalised.
    pub(super) sums: &'a mut [f32],
}

/// Calls a kernel for `$rows` by `$columns` vectors: both are constants to the compiler, which then keeps the
/// block in registers.
macro_rules! blocked {
    ($s:ident, $rows:expr, $columns:expr, $kernel:ident { $($field:ident),* }) => {
        blocked!(@arms $s, ($rows, $columns), $kernel { $($field),* },
            (1, 1) (2, 1) (3, 1) (4, 1) (5, 1) (6, 1)
            (1, 2) (2, 2) (3, 2) (4, 2) (5, 2) (6, 2)
            (1, 4) (2, 4) (3, 4) (4, 4) (5, 4) (6, 4))
    };
    (@arms $s:ident, $shape:expr, $kernel:ident $fields:tt, $(($r:literal, $c:literal))*) => {
        match $shape {
            $(($r, $c) => $s.vectorize(blocked!(@kernel $kernel, $r, $c, $fields)),)*
            _ => unreachable!("blocks have 1 to 6 rows and 1, 2 or 4 vectors"),
        }
    };
    (@kernel $kernel:ident, $r:literal, $c:literal, { $($field:ident),* }) => {
        $kernel::<E, $r, $c> { $($field),* }
    };
}

impl<E: Element> Block<'_, E> {
    /// Attention of the rows over the tile: fills `sums`, gives each row's maximum and sum.
    #[inline(always)]
    pub(super) fn attend<S: Lanes>(&mut self, s: S) -> [RowState; BLOCK_ROWS] {
        assert!(self.q.len() >= self.rows * self.head_dim);
        assert!(self.scores.len() >= self.rows * TILE);
        self.sums[..self.rows * self.width].fill(0.0);
        self.score(s);
        let mut states = [RowState::EMPTY; BLOCK_ROWS];
        let scores = self.scores.as_chunks_mut::<TILE>().0;
        for ((state, scores), range) in states.iter_mut().zip(scores).zip(self.ranges).take(self.rows) {
            *state = softmax(s, scores, range);
        }
        for rows in chunks::<S>(self.rows) {
            self.weigh(s, rows);
        }
        states
    }

    /// Scores of all rows for every vector of keys that one of them sees.
    #[inline(always)]
    fn score<S: Lanes>(&mut self, s: S) {
        let head_dim = self.head_dim;
        let tile = self.tile;
        let mut group = self.ranges[0].0 / LANES;
        let end = self.ranges[self.rows - 1].1.div_ceil(LANES);
        while group < end {
            let mut step = 4;
            for rows in chunks::<S>(self.rows) {
                step = step.min(columns::<S>(rows.1, end - group));
            }
            for (row, count) in chunks::<S>(self.rows) {
                let q = self.q[row * head_dim..].as_ptr();
                let scores = self.scores[row * TILE..].as_mut_ptr();
                blocked!(
                    s,
                    count,
                    step,
                    Scores {
                        q,
                        head_dim,
                        tile,
                        group,
                        scores
                    }
                );
            }
            group += step;
        }
    }

    /// Weighted sums of `count` rows from `row`: the keys that all of them see together, those before and
    /// after row by row, every row in the order of its keys.
    #[inline(always)]
    fn weigh<S: Lanes>(&mut self, s: S, (row, count): (usize, usize)) {
        let from = self.ranges[row + count - 1].0;
        let to = self.ranges[row].1.max(from);
        for r in row..row + count {
            let (first, end) = self.ranges[r];
            self.weigh_range(s, (r, 1), (first, end.min(from)));
        }
        self.weigh_range(s, (row, count), (from, to));
        for r in row..row + count {
            let (first, end) = self.ranges[r];
            self.weigh_range(s, (r, 1), (first.max(to), end));
        }
    }

    #[inline(always)]
    fn weigh_range<S: Lanes>(&mut self, s: S, (row, count): (usize, usize), range: (usize, usize)) {
        if range.0 >= range.1 {
            return;
        }
        let (tile, width) = (self.tile, self.width);
        let weights = self.scores[row * TILE..].as_ptr();
        let sums = self.sums[row * width..].as_mut_ptr();
        let mut column = 0;
        while column < width {
            let step = columns::<S>(count, (width - column) / LANES);
            blocked!(
                s,
                count,
                step,
                WeightedSum {
                    weights,
                    tile,
                    range,
                    column,
                    sums,
                    width
                }
            );
            column += step * LANES;
        }
    }
}

/// `rows` cut into blocks that fit the registers, as even as possible: first row and count of each.
#[inline(always)]
fn chunks<S: Lanes>(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(S::ACCUMULATORS.min(MAX_ROWS));
    (0..count).map(move |i| {
        let from = rows * i / count;
        (from, rows * (i + 1) / count - from)
    })
}

/// Vectors beside each other for `rows` rows, with `left` to go.
#[inline(always)]
fn columns<S: Lanes>(rows: usize, left: usize) -> usize {
    let fit = left.min(S::ACCUMULATORS / rows);
    match fit {
        4.. => 4,
        2..4 => 2,
        _ => 1,
    }
}
