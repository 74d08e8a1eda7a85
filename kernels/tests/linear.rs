//! `linear` and `embed` of the CPU backend against f64 arithmetic on dequantized weights, and their promise
//! that a row's bits depend on nothing but the row.

mod support;

use ferrum_kernels::{
    Backend, HostTensor, WeightFormat,
    cpu::{CpuBackend, Isa, detect},
    ops::LinearOps,
};
use support::{DENSE, QUANTIZED, Random, dequantized_row};

/// Rows of the steps that a server makes: decode alone and in company, prefill in chunks.
const ROWS: [usize; 8] = [1, 2, 3, 5, 8, 17, 64, 512];

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx]
        .into_iter()
        .filter(|isa| *isa <= detect())
}

/// `x . w^T + bias`: x `(rows, k)`.
fn linear(backend: &CpuBackend, parts: &[HostTensor], x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let weight = backend.prepare_weight(parts).expect("a weight");
    let rows = x.len() / weight.k();
    let mut x_buffer = backend.alloc(x.len()).expect("memory");
    backend.write(x, &mut x_buffer).expect("it fits");
    let bias = bias.map(|bias| {
        let mut buffer = backend.alloc(bias.len()).expect("memory");
        backend.write(bias, &mut buffer).expect("it fits");
        buffer
    });
    let mut out = backend.alloc(rows * weight.n()).expect("memory");
    out.fill(f32::NAN);
    backend
        .linear(&x_buffer, &weight, bias.as_ref(), rows, &mut out)
        .expect("a product");
    out.to_vec()
}

/// What quantized weights are multiplied with: each block of 32 rounded to `s * level`, `s = max|x| / 127`, so
/// that an element moves by `s / 2` at most (1 + 1e-5: `s` and `1 / s` are rounded to f32 themselves).
fn rounded(x: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for block in x.chunks(32) {
        let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        for x in block {
            let level = (x * (127.0 / largest)).round_ties_even();
            let y = if largest > 0.0 {
                largest / 127.0 * level
            } else {
                0.0
            };
            assert!((y - x).abs() <= largest / 254.0 * (1.0 + 1e-5));
            out.push(y);
        }
    }
    out
}

/// Largest error of `x . w` in f32 arithmetic, unit roundoff u = 2^-24.
///
/// A product of weight and activation passes through at most `steps` roundings, so the error is at most
/// `steps * u / (1 - steps * u)` of the sum of the magnitudes that are added.
/// Dense: k / 16 fused multiply-adds in a lane and 4 additions of lanes; the magnitudes are `|x * w|`.
/// Quantized: one or two products of scales, then at most two fused multiply-adds a block of 32 (Q6_K: its
/// halves; others: product and minimum); the magnitudes are those of `scale * (level - zero) * x` and
/// `min * x`, both at most `spread * |x|`. And `rounded` rounds once more than the kernel, which keeps scale
/// and level apart.
fn tolerance(format: WeightFormat, x: &[f32], w: &[f32]) -> f64 {
    let steps = 4 + 2 * x.len().div_ceil(32);
    let abs = |x: f32| f64::from(x.abs());
    let magnitude: f64 = if format.block_len() > 1 {
        2.0 * spread(format) * x.iter().map(|x| abs(*x)).sum::<f64>()
    } else {
        x.iter().zip(w).map(|(x, w)| abs(*x) * abs(*w)).sum()
    };
    let u = steps as f64 * f64::from(f32::EPSILON / 2.0);
    u / (1.0 - u) * magnitude
}

/// The largest `|scale * (level - zero)|` or `|min|` that [`Random::matrix`] makes of quantized weights.
fn spread(format: WeightFormat) -> f64 {
    0.05 * match format {
        WeightFormat::Q4_1 => 15.0,
        WeightFormat::Q5_1 => 31.0,
        WeightFormat::Q4K => 15.0 * 63.0,
        WeightFormat::Q5K => 31.0 * 63.0,
        WeightFormat::Q4_0 => 8.0,
        WeightFormat::Int4G32 | WeightFormat::Int4G64 | WeightFormat::Int4G128 => 16.0,
        WeightFormat::Q5_0 => 16.0,
        WeightFormat::Q8_0 => 128.0,
        WeightFormat::Q6K => 32.0 * 128.0,
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => unreachable!("not quantized"),
    }
}

/// Compares some outputs, the corners among them, with f64.
fn check(parts: &[HostTensor], x: &[f32], bias: Option<&[f32]>, y: &[f32], random: &mut Random) {
    let k = parts[0].cols;
    let n: usize = parts.iter().map(|part| part.rows).sum();
    let rows = x.len() / k;
    let mut columns = vec![0, n / 2, n - 1];
    columns.extend(parts.iter().scan(0, |end, part| {
        *end += part.rows;
        Some(*end - 1)
    }));
    columns.extend((0..40).map(|_| random.below(n)));
    for j in columns {
        let w = dequantized_row(parts, j);
        let mut end = 0;
        let part = parts.iter().find(|part| {
            end += part.rows;
            j < end
        });
        let part = part.expect("j < n");
        let format = part.format;
        let some_rows: Vec<usize> = if rows <= 17 {
            (0..rows).collect()
        } else {
            (0..8).map(|_| random.below(rows)).chain([0, rows - 1]).collect()
        };
        for i in some_rows {
            let x = &stored_order(part, &x[i * k..][..k]);
            let x = if format.block_len() > 1 {
                rounded(x)
            } else {
                x.to_vec()
            };
            let exact: f64 = x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let exact = exact + bias.map_or(0.0, |bias| f64::from(bias[j]));
            let got = f64::from(y[i * n + j]);
            // The addition of the bias rounds once more.
            let allowed = tolerance(format, &x, &w) * (1.0 + 1e-6) + exact.abs() * f64::from(f32::EPSILON);
            let error = (got - exact).abs();
            assert!(
                error <= allowed,
                "{format} {n} x {k}, {rows} rows: out[{i}, {j}] = {got}, exactly {exact}: \
                 off by {error:e}, {allowed:e} allowed"
            );
        }
    }
}

/// An activation row in the order of the part's columns.
fn stored_order(part: &HostTensor, x: &[f32]) -> Vec<f32> {
    match &part.order {
        Some(order) => order.iter().map(|&input| x[input as usize]).collect(),
        None => x.to_vec(),
    }
}

fn check_shape(parts: &[HostTensor], with_bias: bool, rows: &[usize]) {
    let k = parts[0].cols;
    let n: usize = parts.iter().map(|part| part.rows).sum();
    let mut random = Random(17);
    let bias: Option<Vec<f32>> = with_bias.then(|| (0..n).map(|_| random.unit()).collect());
    let backend = CpuBackend::new(2);
    for &rows in rows {
        let x = random.activations(rows * k);
        let y = linear(&backend, parts, &x, bias.as_deref());
        check(parts, &x, bias.as_deref(), &y, &mut random);
    }
}

#[test]
fn every_format_multiplies_within_its_rounding() {
    let mut random = Random(1);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        let k = if 576 % format.block_len() == 0 { 576 } else { 768 };
        check_shape(&[random.matrix(format, 960, k)], false, &ROWS);
    }
}

#[test]
fn shapes_of_smollm2_multiply_within_their_rounding() {
    let mut random = Random(2);
    for (n, k) in [(960, 576), (576, 576), (3072, 576), (576, 1536)] {
        check_shape(&[random.matrix(WeightFormat::Q4_1, n, k)], false, &ROWS);
        check_shape(&[random.matrix(WeightFormat::F16, n, k)], false, &[1, 3, 64]);
    }
    check_shape(&[random.matrix(WeightFormat::Q8_0, 49152, 576)], false, &[1, 8]);
}

#[test]
fn shapes_of_qwen2_multiply_within_their_rounding() {
    let mut random = Random(3);
    let mut matrix = |format, n, k| random.matrix(format, n, k);
    let qkv = [
        matrix(WeightFormat::Q5_0, 896, 896),
        matrix(WeightFormat::Q5_0, 128, 896),
        matrix(WeightFormat::Q8_0, 128, 896),
    ];
    check_shape(&qkv, true, &ROWS);
    check_shape(&[matrix(WeightFormat::Q5_0, 9728, 896)], false, &[1, 17]);
    check_shape(&[matrix(WeightFormat::Q4K, 896, 4864)], false, &[1, 17]);
    check_shape(&[matrix(WeightFormat::Q6K, 896, 4864)], false, &[1, 17]);
    check_shape(&[matrix(WeightFormat::Q8_0, 151_936, 896)], false, &[1]);
}

#[test]
fn shapes_of_minilm_multiply_within_their_rounding() {
    let mut random = Random(4);
    for (n, k) in [(1152, 384), (384, 384), (1536, 384), (384, 1536)] {
        check_shape(&[random.matrix(WeightFormat::F32, n, k)], true, &ROWS);
    }
}

#[test]
fn narrow_and_odd_shapes_multiply_within_their_rounding() {
    let mut random = Random(5);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        for k in [32, 64, 96, 128, 256, 512] {
            for n in [1, 3, 16, 17, 33, 100] {
                if k % format.block_len() == 0 {
                    check_shape(&[random.matrix(format, n, k)], n % 2 == 1, &[1, 2, 7, 20]);
                }
            }
        }
    }
    for format in DENSE {
        for k in [1, 15, 17, 100] {
            check_shape(&[random.matrix(format, 7, k)], true, &[1, 2, 5]);
        }
    }
}

#[test]
fn parts_of_different_formats_stack() {
    let mut random = Random(6);
    let parts = [
        random.matrix(WeightFormat::Q4K, 512, 512),
        random.matrix(WeightFormat::Q4K, 70, 512),
        random.matrix(WeightFormat::Q6K, 33, 512),
        random.matrix(WeightFormat::F16, 5, 512),
        random.matrix(WeightFormat::Q4_1, 20, 512),
    ];
    check_shape(&parts, true, &ROWS);
}

/// Columns sorted by what matters most, each part its own way.
#[test]
fn columns_in_an_order_of_their_own_multiply_the_inputs_they_belong_to() {
    let mut random = Random(15);
    let mut shuffled = |format, rows| {
        let mut order: Vec<u32> = (0..512).collect();
        (1..512).rev().for_each(|i| order.swap(i, random.below(i + 1)));
        HostTensor {
            order: Some(order.into()),
            ..random.matrix(format, rows, 512)
        }
    };
    let parts = [
        shuffled(WeightFormat::Int4G128, 70),
        shuffled(WeightFormat::Int4G32, 33),
        shuffled(WeightFormat::F16, 20),
        Random(16).matrix(WeightFormat::Int4G128, 5, 512),
    ];
    check_shape(&parts, true, &ROWS);
    let backend = CpuBackend::new(1);
    let table = backend.prepare_weight(&parts[..1]).expect("a weight");
    let ids = backend.alloc_indices(1).expect("memory");
    let mut row = backend.alloc(512).expect("memory");
    backend.embed(&table, &ids, 1, &mut row).expect("a row");
    assert_eq!(
        stored_order(&parts[0], &row),
        dequantized_row(&parts, 0),
        "a row comes back in the order of the inputs"
    );
}

#[test]
fn a_row_has_the_same_bits_alone_in_company_and_on_any_number_of_threads() {
    let mut random = Random(7);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        let parts = [random.matrix(format, 531, 768)];
        let x = random.activations(512 * 768);
        let one = CpuBackend::new(1);
        let all = linear(&one, &parts, &x, None);
        for threads in [2, 3] {
            assert!(
                linear(&CpuBackend::new(threads), &parts, &x, None) == all,
                "{format}, {threads} threads"
            );
        }
        // Rows at any place of a step of any size.
        for (first, rows) in [
            (0, 1),
            (17, 1),
            (511, 1),
            (3, 2),
            (5, 3),
            (40, 5),
            (8, 8),
            (100, 15),
            (64, 64),
        ] {
            let part = linear(&one, &parts, &x[first * 768..(first + rows) * 768], None);
            assert!(
                part[..] == all[first * 531..(first + rows) * 531],
                "{format}, {rows} rows"
            );
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let mut random = Random(8);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        for (n, k) in [(75, 768), (32, 256)] {
            let parts = [random.matrix(format, n, k)];
            let bias: Vec<f32> = (0..n).map(|_| random.unit()).collect();
            for rows in 1..=20 {
                let x = random.activations(rows * k);
                let mut all = isas().map(|isa| {
                    let backend = CpuBackend::with_isa(1, isa);
                    (isa, linear(&backend, &parts, &x, Some(&bias)))
                });
                let (_, expected) = all.next().expect("portable at least");
                for (isa, y) in all {
                    assert!(y == expected, "{format} {n} x {k}, {rows} rows on {isa}");
                }
            }
        }
    }
    for format in DENSE {
        for k in [1, 15, 17, 100] {
            let parts = [random.matrix(format, 9, k)];
            let x = random.activations(6 * k);
            let mut all = isas().map(|isa| linear(&CpuBackend::with_isa(1, isa), &parts, &x, None));
            let expected = all.next().expect("portable at least");
            assert!(all.all(|y| y == expected), "{format}, {k} columns");
        }
    }
}

#[test]
fn extreme_levels_do_not_overflow() {
    for format in QUANTIZED {
        let k = 256;
        let mut tensor = Random(9).matrix(format, 16, k);
        let ones: Vec<u8> = tensor
            .bytes
            .chunks_exact(format.block_bytes())
            .flat_map(|block| {
                // Scales as they were, every level at its largest, or for Q8_0 at its lowest, -128.
                let level = if format == WeightFormat::Q8_0 { 0x80 } else { 0xff };
                let mut block = block.to_vec();
                let levels = match format {
                    WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 => 2..block.len(),
                    WeightFormat::Q6K => 0..192,
                    WeightFormat::Q4K | WeightFormat::Q5K => 16..block.len(),
                    _ => 4..block.len(),
                };
                block[levels].fill(level);
                block
            })
            .collect();
        tensor.bytes = ones.into();
        for value in [1.0, -1.0] {
            let x = vec![value; 5 * k];
            let mut random = Random(10);
            for isa in isas() {
                let y = linear(&CpuBackend::with_isa(1, isa), &[tensor.clone()], &x, None);
                check(&[tensor.clone()], &x, None, &y, &mut random);
            }
        }
    }
}

#[test]
fn zeros_give_zeros_and_a_nan_shows() {
    let mut random = Random(11);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        let parts = [random.matrix(format, 20, 256)];
        for isa in isas() {
            let backend = CpuBackend::with_isa(1, isa);
            let y = linear(&backend, &parts, &vec![0.0; 3 * 256], None);
            assert!(y.iter().all(|&y| y == 0.0), "{format} on {isa}");
            for poison in [f32::NAN, f32::INFINITY] {
                let mut x = random.activations(3 * 256);
                x[256 + 40] = poison;
                let y = linear(&backend, &parts, &x, None);
                assert!(y[20..40].iter().all(|y| !y.is_finite()), "{format} on {isa}");
                assert!(
                    y[..20].iter().chain(&y[40..]).all(|y| y.is_finite()),
                    "{format} on {isa}"
                );
            }
        }
    }
}

#[test]
fn embed_gives_the_rows_of_the_table() {
    let mut random = Random(12);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        let parts = [
            random.matrix(format, 50, 512),
            random.matrix(WeightFormat::Q8_0, 7, 512),
        ];
        let backend = CpuBackend::new(2);
        let table = backend.prepare_weight(&parts).expect("a weight");
        let ids = [0, 49, 17, 17, 50, 56];
        let mut indices = backend.alloc_indices(ids.len()).expect("memory");
        backend.write_indices(&ids, &mut indices).expect("it fits");
        let mut out = backend.alloc(ids.len() * 512).expect("memory");
        backend
            .embed(&table, &indices, ids.len(), &mut out)
            .expect("rows");
        for (id, row) in ids.iter().zip(out.chunks_exact(512)) {
            assert_eq!(row, dequantized_row(&parts, *id as usize), "{format}, row {id}");
        }
        backend.write_indices(&[3, 57], &mut indices).expect("it fits");
        let error = backend
            .embed(&table, &indices, 2, &mut out)
            .expect_err("past the end");
        assert!(
            error.to_string().contains("row 57 of a table of 57 rows"),
            "{error}"
        );
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let mut random = Random(13);
    let backend = CpuBackend::new(1);
    let good = random.matrix(WeightFormat::Q4_0, 4, 64);
    let other = random.matrix(WeightFormat::Q4_0, 4, 96);
    let short = HostTensor {
        rows: 5,
        ..good.clone()
    };
    let empty = HostTensor {
        rows: 0,
        bytes: Vec::new().into(),
        ..good.clone()
    };
    let ragged = HostTensor {
        cols: 65,
        ..good.clone()
    };
    let twice = HostTensor {
        order: Some((0..64).map(|i| i / 2).collect()),
        ..good.clone()
    };
    for (parts, message) in [
        (vec![], "without parts"),
        (vec![twice], "the order of 64 columns is no permutation of 64"),
        (vec![good.clone(), other], "64 and 96 columns do not stack"),
        (vec![empty], "a Q4_0 matrix of 0 x 64 is empty"),
        (vec![short], "a Q4_0 matrix of 5 x 64 takes 5 x 36 bytes, not 144"),
        (vec![ragged], "65 columns are no multiple of Q4_0's block of 32"),
    ] {
        let error = backend.prepare_weight(&parts).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    let weight = backend.prepare_weight(&[good]).expect("a weight");
    let x = backend.alloc(64).expect("memory");
    backend
        .linear(&x, &weight, None, 0, &mut backend.alloc(0).expect("memory"))
        .expect("nothing to do");
    let mut out = backend.alloc(3).expect("memory");
    let error = backend
        .linear(&x, &weight, None, 1, &mut out)
        .expect_err("too short");
    assert!(
        error.to_string().contains("out holds 3 elements, 4 needed"),
        "{error}"
    );
}

#[test]
fn packed_weights_take_about_as_many_bytes_as_the_checkpoint() {
    let mut random = Random(14);
    for format in QUANTIZED {
        let tensor = random.matrix(format, 960, 768);
        let backend = CpuBackend::new(1);
        let _weight = backend
            .prepare_weight(std::slice::from_ref(&tensor))
            .expect("a weight");
        let ratio = backend.allocated_bytes() as f64 / tensor.bytes.len() as f64;
        assert!(ratio <= 1.03, "{format}: {ratio}");
    }
}
