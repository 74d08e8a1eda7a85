use super::*;
use crate::memory;

/// A matrix of small whole numbers, which every element type has, with gaps between its columns; they are not numbers.
fn matrix(element: Element, (rows, columns): (usize, usize), seed: usize) -> (Layout, u64, Vec<f32>) {
    let layout = Layout {
        element,
        rows,
        columns,
        stride: rows + 3,
    };
    let address = memory::allocate((columns * layout.stride) * 4).expect("memory");
    let values: Vec<f32> = (0..rows * columns)
        .map(|i| ((i * 7 + seed) % 11) as f32 - 5.0)
        .collect();
    layout.write("a matrix", address, &values).expect("room");
    assert_eq!(layout.read("a matrix", address), Ok(values.clone()));
    (layout, address, values)
}

#[test]
fn a_product_is_that_of_its_definition_for_all_transposes_and_types() {
    let (m, n, k) = (5, 7, 19);
    for element in [Element::F32, Element::F16, Element::Bf16] {
        for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
            let turned = |is_turned, (rows, columns)| {
                if is_turned {
                    (columns, rows)
                } else {
                    (rows, columns)
                }
            };
            let (a_layout, a_address, left) = matrix(element, turned(a, (m, k)), 1);
            let (b_layout, b_address, right) = matrix(element, turned(b, (k, n)), 2);
            let (out, c_address, before) = matrix(Element::F32, (m, n), 3);
            let matrices = Matrices {
                transposed: Transposed { a, b },
                layouts: [a_layout, b_layout, out, out],
                m,
                n,
                k,
            };
            let addresses = [a_address, b_address, c_address, c_address];
            matrices
                .multiply([2.0, 3.0], addresses)
                .expect("allocated matrices");
            let after = out.read("d", c_address).expect("an allocated matrix");
            for (at, &sum) in after.iter().enumerate() {
                let (row, column) = (at % m, at / m);
                let of_left = |i| if a { left[row * k + i] } else { left[i * m + row] };
                let of_right = |i| {
                    if b {
                        right[i * n + column]
                    } else {
                        right[column * k + i]
                    }
                };
                let product: f32 = (0..k).map(|i| of_left(i) * of_right(i)).sum();
                assert_eq!(sum, 2.0 * product + 3.0 * before[at], "{row} {column}");
            }
            assert_eq!([a_address, b_address, c_address].map(memory::release), [true; 3]);
            assert!(
                matrices.multiply([1.0, 0.0], addresses).is_err(),
                "freed matrices"
            );
        }
    }
}
