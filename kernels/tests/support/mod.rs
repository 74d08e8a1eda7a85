//! Random matrices of every format, from a fixed seed.

use ferrum_kernels::{HostTensor, WeightFormat, cpu::dequant::dequantize_into};

pub(crate) const QUANTIZED: [WeightFormat; 11] = [
    WeightFormat::Q4_0,
    WeightFormat::Q4_1,
    WeightFormat::Q5_0,
    WeightFormat::Q5_1,
    WeightFormat::Q8_0,
    WeightFormat::Q4K,
    WeightFormat::Q5K,
    WeightFormat::Q6K,
    WeightFormat::Int4G32,
    WeightFormat::Int4G64,
    WeightFormat::Int4G128,
];

pub(crate) const DENSE: [WeightFormat; 3] = [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16];

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// Activations as models have them: mostly small, a few large.
    pub(crate) fn activations(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| {
                let x = self.unit();
                if self.below(50) == 0 { 20.0 * x } else { x }
            })
            .collect()
    }

    /// A matrix with random levels and scales of a few hundredths, both signs.
    pub(crate) fn matrix(&mut self, format: WeightFormat, rows: usize, cols: usize) -> HostTensor {
        let block = format.block_bytes();
        let len = rows * format.bytes_of(cols).expect("a multiple of the block");
        let mut bytes: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| self.bits().to_le_bytes())
            .collect();
        bytes.truncate(len);
        for block in bytes.chunks_exact_mut(block) {
            match format {
                WeightFormat::F32 => block.copy_from_slice(&self.unit().to_le_bytes()),
                WeightFormat::F16 => block.copy_from_slice(&half::f16::from_f32(self.unit()).to_le_bytes()),
                WeightFormat::BF16 => block.copy_from_slice(&half::bf16::from_f32(self.unit()).to_le_bytes()),
                WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 => self.put_scale(block, 0),
                WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K => {
                    self.put_scale(block, 0);
                    self.put_scale(block, 2);
                }
                WeightFormat::Q6K => self.put_scale(block, 208),
                WeightFormat::Int4G32 | WeightFormat::Int4G64 | WeightFormat::Int4G128 => {
                    self.put_scale(block, 0);
                    // A zero level of 16 is what a file that stores it less 1 can say.
                    block[2] = self.below(17) as u8;
                    block[3] = 0;
                }
            }
        }
        HostTensor::new(format, rows, cols, bytes.into())
    }

    fn put_scale(&mut self, block: &mut [u8], at: usize) {
        let scale = half::f16::from_f32(0.05 * self.unit());
        block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    }
}

/// Row `row` of stacked parts as f32.
pub(crate) fn dequantized_row(parts: &[HostTensor], mut row: usize) -> Vec<f32> {
    for part in parts {
        if row < part.rows {
            let len = part.bytes.len() / part.rows;
            let mut out = vec![0.0; part.cols];
            dequantize_into(part.format, &part.bytes[row * len..(row + 1) * len], &mut out);
            return out;
        }
        row -= part.rows;
    }
    panic!("row past the end");
}
