//! A row has the same bits in any company, on any number of threads and with any instruction set.

use ferrum_kernels::cpu::CpuBackend;

use crate::{
    fixture::{isas, linear},
    support::{DENSE, QUANTIZED, Random},
};

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
