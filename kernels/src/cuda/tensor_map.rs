//! Matrices as Hopper's copies of tiles see them.

use std::{ffi::c_void, mem::MaybeUninit};

use cudarc::driver::sys;

use crate::{
    backend::BackendError,
    cuda::{Element, device::check},
};

/// Columns of a tile of 16-bit elements: what lies side by side where tensor cores read it.
pub(super) const TILE_COLUMNS: usize = 64;

/// A row-major matrix of 16-bit elements at `address`, of which `tile_rows` rows are copied at once. Columns are a multiple
/// of 8. What a tile has outside of the matrix is zero.
pub(super) fn tensor_map(
    address: u64,
    element: Element,
    (rows, columns): (usize, usize),
    tile_rows: usize,
) -> Result<sys::CUtensorMap, BackendError> {
    let kind = match element {
        Element::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        Element::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        Element::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let extents = [columns as u64, rows as u64];
    let row_bytes = [(columns * element.size()) as u64];
    let tile = [TILE_COLUMNS as u32, tile_rows as u32];
    let steps = [1_u32; 2];
    let mut map = MaybeUninit::uninit();
    // SAFETY: the arrays are as long as the two dimensions want; the call reads them and writes the map, and touches no
    // memory of the GPU.
    check("cuTensorMapEncodeTiled", unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            kind,
            2,
            address as *mut c_void,
            extents.as_ptr(),
            row_bytes.as_ptr(),
            tile.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    })?;
    // SAFETY: the call succeeded, so it wrote the map.
    Ok(unsafe { map.assume_init() })
}
