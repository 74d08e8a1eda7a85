//! With batch invariance a row's bits depend on nothing but the row.

use std::ops::Range;

use ferrum_kernels::{Backend, HostTensor, WeightFormat, cuda::Element, ops::LinearOps};

use crate::{
    attention::{Caches, Chunk, Settings, allowed, layout, step},
    int4::{shuffled, symmetric},
    linear::{check, format},
    support::Random,
    twin::{ELEMENTS, Twin},
};

/// Rows that stand together, around all numbers at which another kernel takes over.
const MOST: usize = 300;
const TOGETHER: [Range<usize>; 11] = [
    0..1,
    7..9,
    20..27,
    100..116,
    3..20,
    0..48,
    10..59,
    40..104,
    1..129,
    150..281,
    299..300,
];

/// Checks that every row of products with `weight`, plain and gated, has the same bits in any company.
fn check_products(twin: &Twin, random: &mut Random, weight: &HostTensor) {
    let (n, k, what) = (weight.rows, weight.cols, weight.format);
    let weight = twin
        .gpu
        .prepare_weight(std::slice::from_ref(weight))
        .expect("memory");
    let values = twin.random(random, MOST * k);
    let (bias, _) = twin.vectors(&(0..n).map(|_| random.unit()).collect::<Vec<_>>());
    for kind in ["activations", "logits", "gated"] {
        let run = |rows: Range<usize>| {
            let (x, _) = twin.buffers(&values[rows.start * k..rows.end * k]);
            let rows = rows.len();
            let (mut out, _) = match kind {
                "logits" => twin.exact_outputs(rows * n),
                _ => twin.outputs(rows * n),
            };
            if kind == "gated" {
                let (mut activated, _) = twin.outputs(rows * n / 2);
                let buffers = (&mut out, &mut activated);
                twin.gpu
                    .linear_silu_mul(&x, &weight, Some(&bias), (rows, n / 2), buffers)
                    .expect("a product");
                return twin.read(&activated, rows * n / 2);
            }
            twin.gpu
                .linear(&x, &weight, Some(&bias), rows, &mut out)
                .expect("a product");
            twin.read(&out, rows * n)
        };
        let all = run(0..MOST);
        let width = all.len() / MOST;
        for rows in TOGETHER {
            assert!(
                run(rows.clone()) == all[rows.start * width..rows.end * width],
                "{what}, {n} x {k}, {kind}: rows {rows:?} have other bits than among {MOST}"
            );
        }
    }
}

#[test]
fn a_product_gives_a_row_the_same_bits_among_any_number_of_rows() {
    for element in ELEMENTS {
        let twin = Twin::invariant(element);
        let mut random = Random(31);
        for (n, k) in [(2568, 1096), (6144, 2560), (576, 1536), (130, 24)] {
            // In single precision one kernel does it all.
            if element != Element::F32 || n < 2000 {
                let weight = random.matrix(format(element), n, k);
                check_products(&twin, &mut random, &weight);
            }
        }
    }
}

#[test]
fn a_product_at_4_and_8_bits_gives_a_row_the_same_bits_among_any_number_of_rows() {
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::invariant(element);
        let mut random = Random(32);
        for (format, n, k) in [
            (WeightFormat::Int4G128, 1152, 2560),
            (WeightFormat::Int4G32, 576, 608),
            // By rings from the first row on.
            (WeightFormat::Int4G128, 3392, 2560),
        ] {
            let weight = random.matrix(format, n, k);
            check_products(&twin, &mut random, &weight);
            let weight = symmetric(shuffled(&mut random, weight));
            check_products(&twin, &mut random, &weight);
        }
        let weight = random.matrix(WeightFormat::Q8_0, 1152, 2560);
        check_products(&twin, &mut random, &weight);
    }
}

#[test]
fn products_in_one_order_equal_the_cpu() {
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::invariant(element);
        let mut random = Random(33);
        for (n, k, rows) in [
            (960, 576, 49),
            (2560, 1024, 64),
            (6144, 2560, 257),
            (129, 40, 130),
        ] {
            let weight = random.matrix(format(element), n, k);
            check(&twin, &mut random, &weight, rows, rows % 2 == 1);
        }
    }
}

/// Tokens `from..to` of a sequence.
type Tokens = (usize, usize, usize);

#[test]
fn attention_gives_a_row_the_same_bits_in_any_chunks_and_company() {
    let lengths = [1030, 37, 300, 129, 1, 16];
    // Each is a history of steps; all compute every token of every sequence once.
    let histories: [&[&[Tokens]]; 4] = [
        // Each prompt alone and whole.
        &[
            &[(0, 0, 1030)],
            &[(1, 0, 37)],
            &[(2, 0, 300)],
            &[(3, 0, 129)],
            &[(4, 0, 1)],
            &[(5, 0, 16)],
        ],
        // All at once.
        &[&[
            (0, 0, 1030),
            (1, 0, 37),
            (2, 0, 300),
            (3, 0, 129),
            (4, 0, 1),
            (5, 0, 16),
        ]],
        // In chunks, the last of one token.
        &[
            &[(0, 0, 513), (3, 0, 128)],
            &[(0, 513, 514), (2, 0, 129), (5, 0, 15)],
            &[(0, 514, 1029), (1, 0, 36), (2, 129, 299)],
            &[
                (0, 1029, 1030),
                (1, 36, 37),
                (2, 299, 300),
                (3, 128, 129),
                (4, 0, 1),
                (5, 15, 16),
            ],
        ],
        // As the former, one by one at the end.
        &[
            &[(0, 0, 1000), (1, 0, 10)],
            &[(0, 1000, 1029), (1, 10, 36), (3, 0, 128), (2, 0, 299)],
            &[(0, 1029, 1030)],
            &[(1, 36, 37), (4, 0, 1)],
            &[(2, 299, 300), (5, 0, 16)],
            &[(3, 128, 129)],
        ],
    ];
    for element in ELEMENTS {
        let twin = Twin::invariant(element);
        for (heads, window) in [
            ((9, 3, 64), None),
            ((14, 2, 64), Some(100)),
            ((32, 8, 128), None),
            ((16, 8, 128), Some(16)),
            ((20, 1, 64), None),
        ] {
            let settings = Settings {
                heads: layout(heads),
                window,
            };
            let mut random = Random(34);
            let qkv: Vec<Vec<f32>> = lengths
                .iter()
                .map(|len| twin.random(&mut random, len * settings.heads.qkv_width()))
                .collect();
            let results = histories.map(|history| attend(&twin, &settings, &lengths, &qkv, history));
            for (case, result) in results.iter().enumerate() {
                assert!(
                    *result == results[0],
                    "{}, {heads:?}, window {window:?}: history {case} gives other bits",
                    element.name()
                );
            }
        }
    }
}

/// Attention of every token, sequence after sequence.
fn attend(
    twin: &Twin,
    settings: &Settings,
    lengths: &[usize],
    qkv: &[Vec<f32>],
    history: &[&[Tokens]],
) -> Vec<Vec<f32>> {
    let width = settings.heads.q_width();
    let mut caches = Caches::new(twin, &mut Random(35), settings.heads, 16, lengths);
    let mut results: Vec<Vec<f32>> = lengths.iter().map(|len| vec![0.0; len * width]).collect();
    for tokens in history {
        let chunk = |&(sequence, from, to): &Tokens| Chunk {
            sequence,
            from,
            to,
            qkv: &qkv[sequence],
        };
        let chunks: Vec<_> = tokens.iter().map(chunk).collect();
        let (out, expected) = step(twin, &mut caches, settings, &chunks);
        twin.check("attention in one order", &out, &expected, |_, _| {
            allowed(twin.element, settings.heads.head_dim, 1030)
        });
        let mut values = &twin.read(&out, expected.len())[..];
        for &(sequence, from, to) in *tokens {
            let (own, rest) = values.split_at((to - from) * width);
            results[sequence][from * width..to * width].copy_from_slice(own);
            values = rest;
        }
    }
    results
}

#[test]
fn decoding_many_sequences_and_long_ones_gives_the_bits_of_each_alone() {
    for (heads, lengths) in [
        ((2, 1, 64), vec![8300, 5, 700]),
        ((16, 8, 128), (0..600).map(|i| 1 + i % 61).collect::<Vec<usize>>()),
    ] {
        let twin = Twin::invariant(Element::Bf16);
        let settings = Settings {
            heads: layout(heads),
            window: None,
        };
        let mut random = Random(36);
        let qkv: Vec<Vec<f32>> = lengths
            .iter()
            .map(|len| twin.random(&mut random, len * settings.heads.qkv_width()))
            .collect();
        let whole: Vec<Tokens> = lengths.iter().enumerate().map(|(i, len)| (i, 0, *len)).collect();
        let prompts: Vec<Tokens> = whole
            .iter()
            .filter(|(_, _, len)| *len > 1)
            .map(|&(i, _, len)| (i, 0, len - 1))
            .collect();
        let lasts: Vec<Tokens> = whole.iter().map(|&(i, _, len)| (i, len - 1, len)).collect();
        let together = attend(&twin, &settings, &lengths, &qkv, &[&prompts, &lasts]);
        assert!(together == attend(&twin, &settings, &lengths, &qkv, &[&whole]));
    }
}
