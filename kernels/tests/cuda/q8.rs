//! Products with 8-bit levels (Q8_0), against the CPU's with the same weights in f32.

use ferrum_kernels::{Backend, WeightFormat, cuda::Element, ops::LinearOps};

use crate::{
    int4::check,
    linear::check_company,
    support::{Random, dequantized_row},
    twin::{Twin, round},
};

const ELEMENTS: [Element; 2] = [Element::F16, Element::Bf16];

#[test]
fn eight_bits_equal_the_cpu_at_the_shapes_of_models() {
    // (n, k) of layers of SmolLM2-135M, Qwen2.5-0.5B, Qwen3-4B; output layers of Llama 2, SmolLM2
    // and Qwen2.5, and one as high as Qwen3's.
    let shapes = [
        (960, 576),
        (576, 1536),
        (9728, 896),
        (6144, 2560),
        (2560, 9728),
        (32_000, 576),
        (49_152, 576),
        (151_936, 896),
        (151_936, 64),
    ];
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(51);
        for (case, (n, k)) in shapes.into_iter().enumerate() {
            let weight = random.matrix(WeightFormat::Q8_0, n, k);
            let some = [[1, 8, 17], [4, 16, 64], [2, 32, 33]][case % 3];
            check(&twin, &mut random, &[weight], &some, case % 2 == 0);
        }
    }
}

#[test]
fn every_number_of_rows_at_eight_bits_equals_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(52);
        for (n, k) in [(200, 896), (1, 64), (67, 128), (6337, 576)] {
            // Two parts, as of q, k and v.
            let parts = [n, 16].map(|rows| random.matrix(WeightFormat::Q8_0, rows, k));
            let rows = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 300];
            check(&twin, &mut random, &parts, &rows, n == 67);
        }
    }
}

#[test]
fn embeddings_at_eight_bits_are_the_weights() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(53);
        let parts = [40, 24].map(|rows| random.matrix(WeightFormat::Q8_0, rows, 192));
        let weight = twin.gpu.prepare_weight(&parts).expect("memory");
        let (ids, _) = twin.indices(&[0, 63, 39, 40]);
        let (mut out, _) = twin.outputs(4 * 192);
        twin.gpu.embed(&weight, &ids, 4, &mut out).expect("rows");
        let expected = [0, 63, 39, 40].map(|row| dequantized_row(&parts, row)).concat();
        let expected: Vec<f32> = expected.into_iter().map(|x| round(element, x)).collect();
        assert_eq!(twin.read(&out, 4 * 192), expected);
    }
}

#[test]
fn a_row_at_eight_bits_has_the_same_bits_in_any_company() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(54);
        for (n, k) in [(4240, 1152), (512, 9728)] {
            let weight = random.matrix(WeightFormat::Q8_0, n, k);
            check_company(&twin, &mut random, weight, 16);
        }
    }
}
