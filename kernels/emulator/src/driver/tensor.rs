//! Matrices for copies of tiles.

use std::{
    ffi::{c_uint, c_void},
    slice,
};

use cudarc::driver::sys::{
    CUresult, CUtensorMap, CUtensorMapDataType as Type, CUtensorMapFloatOOBfill as Fill,
    CUtensorMapInterleave as Interleave, CUtensorMapL2promotion, CUtensorMapSwizzle as Swizzle,
};

use super::answer::{code, give};
use crate::tensor_map::{LINE_BYTES, TensorMap};

/// Elements along one side of a tile.
const MOST_ALONG: u32 = 256;
const ELEMENT_BYTES: usize = 2;

/// For the one kind that the kernels use; what a GPU could do beside it is `CUDA_ERROR_NOT_SUPPORTED`.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut CUtensorMap,
    kind: Type,
    rank: c_uint,
    address: *mut c_void,
    extents: *const u64,
    row_bytes: *const u64,
    tile: *const c_uint,
    steps: *const c_uint,
    interleave: Interleave,
    swizzle: Swizzle,
    _promotion: CUtensorMapL2promotion,
    fill: Fill,
) -> CUresult {
    let known = matches!(
        kind,
        Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16 | Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    ) && rank == 2
        && interleave == Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE
        && swizzle == Swizzle::CU_TENSOR_MAP_SWIZZLE_128B
        && fill == Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    if !known {
        return CUresult::CUDA_ERROR_NOT_SUPPORTED;
    }
    if extents.is_null() || row_bytes.is_null() || tile.is_null() || steps.is_null() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller has a number for each dimension, and a stride for each but the first.
    let (extents, row_bytes, tile, steps) = unsafe {
        (
            slice::from_raw_parts(extents, 2),
            row_bytes.read(),
            slice::from_raw_parts(tile, 2),
            slice::from_raw_parts(steps, 2),
        )
    };
    let address = address.addr() as u64;
    let extents_fit = extents.iter().all(|&n| (1..=1 << 32).contains(&n));
    let strides_fit = row_bytes.is_multiple_of(16) && row_bytes < 1 << 40;
    let rows_fit = extents[0] * ELEMENT_BYTES as u64 <= row_bytes || extents[1] == 1;
    let tile_fits = tile.iter().all(|n| (1..=MOST_ALONG).contains(n)) && steps == [1; 2];
    // With fewer a tile's rows would not lie as kernels expect them; with more they could not be swizzled.
    let lines_fit = tile[0] as usize * ELEMENT_BYTES == LINE_BYTES;
    if !(address.is_multiple_of(16) && extents_fit && strides_fit && rows_fit && tile_fits && lines_fit) {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    let encoded = TensorMap {
        address,
        rows: extents[1],
        columns: extents[0],
        row_bytes,
        tile_rows: tile[1].into(),
    };
    let opaque = encoded.encode();
    // SAFETY: the caller's.
    code(unsafe { give(map, CUtensorMap { opaque }) })
}
