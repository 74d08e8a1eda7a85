//! Weights once prepared: their rows, their size, and what is refused.

use ferrum_kernels::{Backend, HostTensor, WeightFormat, cpu::CpuBackend, ops::LinearOps};

use crate::support::{DENSE, QUANTIZED, Random, dequantized_row};

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
