use std::path::Path;

use ferrum_kernels::cpu::dequant::dequantize_into;

use super::*;
use crate::weights::safetensors::read_folder;

/// `scale * (level - zero)` element by element, as the format's description has it.
fn element(tensors: &Tensors, module: &str, (row, input): (usize, usize), offset: u32) -> f32 {
    let word = |end: &str, index: usize| {
        let bytes = &tensors[&format!("{module}.{end}")].bytes;
        u32::from_le_bytes(bytes.as_chunks().0[index])
    };
    let rows = tensors[&format!("{module}.scales")].shape[1];
    let group = word("g_idx", input) as usize;
    let level = word("qweight", input / 8 * rows + row) >> (4 * (input % 8)) & 15;
    let zero = (word("qzeros", group * (rows / 8) + row / 8) >> (4 * (row % 8)) & 15) + offset;
    let scale = tensors[&format!("{module}.scales")].bytes.as_chunks().0[group * rows + row];
    f16::from_le_bytes(scale).to_f32() * (level as f32 - zero as f32)
}

type Tensors = std::collections::HashMap<String, RawTensor>;

fn fixture(name: &str) -> Tensors {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    read_folder(&root.join(name)).expect("a fixture")
}

fn check_every_element(name: &str, grouping: Grouping) {
    let tensors = fixture(name);
    let weights = Weights::new(Path::new(name), tensors.clone()).with_gptq(Some(grouping.into()));
    let mut layers = 0;
    for module in tensors.keys().filter_map(|name| name.strip_suffix(LEVELS)) {
        let shape = &tensors[&format!("{module}{LEVELS}")].shape;
        let (cols, rows) = (8 * shape[0], shape[1]);
        let matrix = weights
            .matrix(&format!("{module}.weight"), rows.into(), cols.into())
            .expect("a layer");
        let mut stored = vec![0.0; cols];
        for (row, bytes) in matrix.bytes.chunks_exact(matrix.bytes.len() / rows).enumerate() {
            dequantize_into(matrix.format, bytes, &mut stored);
            for (column, &x) in stored.iter().enumerate() {
                let input = matrix
                    .order
                    .as_ref()
                    .map_or(column, |order| order[column] as usize);
                let expected = element(&tensors, module, (row, input), u32::from(grouping.zero_offset));
                assert!(
                    x.to_bits() == expected.to_bits(),
                    "{name} {module} [{row}, {input}]: {x}, not {expected}"
                );
            }
        }
        layers += 1;
    }
    assert_eq!(layers, 14, "{name}");
}

fn groups(group_size: Option<usize>) -> Grouping {
    Grouping {
        group_size,
        zero_offset: 1,
    }
}

#[test]
fn every_element_is_what_the_tensors_say() {
    check_every_element("tiny-llama-gptq-sym-g128", groups(Some(128)));
    check_every_element("tiny-llama-gptq-asym-descact-g128", groups(Some(128)));
    check_every_element("tiny-qwen2-gptq-sym-g32", groups(Some(32)));
    check_every_element("tiny-qwen2-gptq-sym-g-1", groups(None));
    let second_version = Grouping {
        zero_offset: 0,
        ..groups(Some(32))
    };
    check_every_element("tiny-qwen2-gptq-sym-g32", second_version);
}

#[test]
fn the_block_divides_the_group_and_the_row() {
    for (group_size, cols, expected) in [
        (128, 256, Some(WeightFormat::Int4G128)),
        (128, 576, Some(WeightFormat::Int4G64)),
        (128, 4896, Some(WeightFormat::Int4G32)),
        (64, 576, Some(WeightFormat::Int4G64)),
        (32, 256, Some(WeightFormat::Int4G32)),
        (384, 384, Some(WeightFormat::Int4G128)),
        (96, 96, Some(WeightFormat::Int4G32)),
        (128, 100, None),
    ] {
        assert_eq!(format_of(group_size, cols), expected, "{group_size}, {cols}");
    }
}

#[test]
fn inputs_are_brought_together_by_their_groups() {
    let bytes = |groups: &[u32]| -> Vec<u8> { groups.iter().flat_map(|group| group.to_le_bytes()).collect() };
    assert_eq!(order(&bytes(&[0, 0, 1, 1]), 2), Ok(None));
    let scattered = order(&bytes(&[1, 0, 2, 0, 1]), 2).expect("groups of two");
    assert_eq!(scattered.as_deref(), Some([1, 3, 0, 4, 2].as_slice()));
    for wrong in [[0, 0, 0, 1], [0, 0, 1, 2], [0, 0, 2, 2], [u32::MAX, 0, 0, 1]] {
        assert!(order(&bytes(&wrong), 2).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_layer_on_several_threads_is_the_layer_on_one() {
    // 2080 rows of 1024 inputs are above the bytes from which on threads are started; rows are no multiple of a share.
    let (rows, cols) = (2080_usize, 1024_usize);
    let levels: Vec<[u8; 4]> = (0..cols / 8 * rows)
        .map(|i| (i as u32).wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    let (zeros, scales) = (vec![[0x77; 4]; 8 * rows / 8], vec![[0, 0x30]; 8 * rows]);
    let layer = Layer {
        levels: &levels,
        zeros: &zeros,
        scales: &scales,
        order: None,
        rows: rows.into(),
        cols,
        group_size: 128,
        zero_offset: 1,
        format: WeightFormat::Int4G128,
    };
    let all = layer.to_rows();
    assert!(all.len() > SHARED_BYTES);
    let row_bytes = all.len() / rows;
    for first in (0..rows).step_by(TILE) {
        let tile = TILE.min(rows - first);
        let mut alone = vec![0; tile * row_bytes];
        layer.convert(first, row_bytes, &mut alone);
        assert!(
            all[first * row_bytes..][..alone.len()] == alone,
            "rows from {first} on"
        );
    }
}

#[test]
fn a_part_of_a_layer_is_those_rows_and_columns_of_it() {
    let name = "model.layers.0.mlp.down_proj.weight";
    let load = |fixture_name: &str, rows: Extent, cols: Extent| {
        let group_size = if fixture_name.ends_with("g32") { 32 } else { 128 };
        Weights::new(Path::new(fixture_name), fixture(fixture_name))
            .with_gptq(Some(groups(Some(group_size)).into()))
            .matrix(name, rows, cols)
    };
    let part = |full, start, len| Extent { full, start, len };
    let (rows, cols) = (Extent::from(256), Extent::from(384));
    let whole = load("tiny-qwen2-gptq-sym-g32", rows, cols).expect("a layer");
    let some = load("tiny-qwen2-gptq-sym-g32", part(256, 100, 72), part(384, 96, 224)).expect("a part");
    assert_eq!((some.rows, some.cols), (72, 224));
    for (row, bytes) in some.bytes.chunks_exact(7 * 20).enumerate() {
        assert_eq!(
            *bytes,
            whole.bytes[(100 + row) * 12 * 20 + 3 * 20..][..7 * 20],
            "row {row}"
        );
    }
    // In the order of importance, any input may be in any block.
    let scattered = "tiny-llama-gptq-asym-descact-g128";
    let some = load(scattered, part(256, 128, 128), cols).expect("rows can be cut");
    assert!(some.order.is_some());
    let text = load(scattered, rows, part(384, 0, 128))
        .expect_err("columns cannot")
        .to_string();
    assert!(
        text.contains("tensor_parallel") && text.contains("multiples of 384"),
        "{text}"
    );
    let weights = Weights::new(Path::new("x"), fixture(scattered)).with_gptq(Some(groups(Some(128)).into()));
    assert_eq!(weights.largest_block("mlp.down_proj.weight"), 128);
}
