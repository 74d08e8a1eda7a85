//! What a tile kernel is given, and which kernel computes it.

use super::packed::{GROUP, PackedFormat};
use crate::cpu::Isa;

/// One group of 16 weight rows times one tile of up to 16 activation rows.
///
/// Every kernel does the same operations in the same order for an output, whatever `rows` is: the dot product
/// of levels in a block is exact in i32 (with the correction for the zero level); then
/// `acc = fma(dot as f32, weight_scale * x_scale, acc)` block by block, and, with minimums,
/// `acc = fma(weight_min, x_scaled_sum, acc)` after it; the bias is added last.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Format of the group.
    pub(super) format: PackedFormat,
    /// Levels of the group.
    pub(super) quants: *const u8,
    /// Scales of the group.
    pub(super) scales: *const u8,
    /// Blocks of 32 columns.
    pub(super) blocks: usize,
    /// Records of the activations, `blocks` of them, `rows` rows each.
    pub(super) x: *const u8,
    /// Activation rows, 1..=16.
    pub(super) rows: usize,
    /// Whether the records are of pairs of blocks.
    pub(super) paired: bool,
    /// Row 0, column 0 of the output.
    pub(super) out: *mut f32,
    /// Elements between rows of the output.
    pub(super) out_stride: usize,
    /// Columns of the output to write, 1..=16.
    pub(super) cols: usize,
    /// Bias of these columns, or null.
    pub(super) bias: *const f32,
}

/// Consecutive groups of weight rows times one tile of activation rows.
pub(super) struct Strip {
    /// The tile of the first group.
    first: Tile,
    /// Groups of weight rows.
    pub(super) groups: usize,
    /// Bytes from one group to the next.
    pub(super) group_bytes: usize,
    /// Columns of the output to write, of all groups.
    cols: usize,
}

impl Strip {
    /// `groups` groups, `group_bytes` apart; `first` is the tile of the first, with the columns of all.
    pub(super) fn new(first: Tile, groups: usize, group_bytes: usize) -> Self {
        Self {
            cols: first.cols,
            first,
            groups,
            group_bytes,
        }
    }

    /// The tile of a group.
    pub(super) fn tile(&self, group: usize) -> Tile {
        let col = group * GROUP;
        Tile {
            quants: self.first.quants.wrapping_add(group * self.group_bytes),
            scales: self.first.scales.wrapping_add(group * self.group_bytes),
            out: self.first.out.wrapping_add(col),
            bias: if self.first.bias.is_null() {
                self.first.bias
            } else {
                self.first.bias.wrapping_add(col)
            },
            cols: self.cols.saturating_sub(col).min(GROUP),
            ..self.first
        }
    }
}

/// Computes a tile.
///
/// # Safety
/// The processor has the kernel's instructions; the pointers are valid for what [`Tile`] says of them.
pub(super) type TileKernel = unsafe fn(&Tile);

/// What a task computes its tiles with, on one thread.
#[derive(Debug)]
pub(super) struct Kernel {
    compute: TileKernel,
    /// Of the matrix unit, if there is one.
    #[cfg(target_arch = "x86_64")]
    amx: Option<super::amx::Kernel>,
}

impl Kernel {
    /// The kernel of a format.
    pub(super) fn new(isa: Isa, format: PackedFormat) -> Self {
        Self {
            compute: kernel(isa, format),
            #[cfg(target_arch = "x86_64")]
            amx: (isa == Isa::Amx).then(|| super::amx::Kernel::new(format)),
        }
    }

    /// Computes the tiles of a strip.
    ///
    /// # Safety
    /// The processor has the instruction set, the tiles are of the format that this kernel was made for, and their
    /// pointers are valid for what [`Tile`] says of them.
    pub(super) unsafe fn compute(&mut self, strip: &Strip) {
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = &mut self.amx
            && super::amx::is_multiplied(&strip.first)
        {
            // SAFETY: the processor has AMX, and whoever has found it may use it.
            unsafe { amx.compute(strip) };
            return;
        }
        for group in 0..strip.groups {
            // SAFETY: the caller's promise.
            unsafe { (self.compute)(&strip.tile(group)) };
        }
    }
}

fn kernel(isa: Isa, format: PackedFormat) -> TileKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => super::avx512::kernel(format),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::avx2::kernel(format),
        _ => super::portable::tile,
    }
}

/// `$kernel::<Levels, Scales>` for the marker types of a format, which a kernel module defines by these names.
macro_rules! dispatch_format {
    ($format:expr, $kernel:ident) => {
        match ($format.quants, $format.scales) {
            (Quants::Bits4, Scales::Block) => $kernel::<Bits4, Block>,
            (Quants::Bits4, Scales::BlockMin) => $kernel::<Bits4, BlockMin>,
            (Quants::Bits4, Scales::SuperMin) => $kernel::<Bits4, SuperMin>,
            (Quants::Bits5, Scales::Block) => $kernel::<Bits5, Block>,
            (Quants::Bits5, Scales::BlockMin) => $kernel::<Bits5, BlockMin>,
            (Quants::Bits5, Scales::SuperMin) => $kernel::<Bits5, SuperMin>,
            (Quants::Bits6, Scales::SuperHalves) => $kernel::<Bits6, SuperHalves>,
            (Quants::Bits8, Scales::Block) => $kernel::<Bits8, Block>,
            (Quants::Bits4, Scales::Group(1)) => $kernel::<Bits4, Group<1>>,
            (Quants::Bits4, Scales::Group(2)) => $kernel::<Bits4, Group<2>>,
            (Quants::Bits4, Scales::Group(4)) => $kernel::<Bits4, Group<4>>,
            (quants, scales) => unreachable!("no format packs {quants:?} with {scales:?}"),
        }
    };
}
pub(super) use dispatch_format;
