//! Large products on cuBLASLt, whose library is loaded at run time.

use std::{
    collections::HashMap,
    ffi::c_void,
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::cublaslt::{result, sys};

use crate::{
    backend::BackendError,
    cuda::{
        DEVICE, Element,
        device::{Device, DeviceMemory},
        linear::Product,
        recordings::beside_none,
    },
};

/// What cuBLASLt may use beside its operands; its fastest algorithms on Hopper want this much.
const WORKSPACE_BYTES: usize = 32 << 20;

/// `CUBLAS_OP_T`, which these bindings leave out.
static TRANSPOSED: i32 = 1;

pub(super) struct Matmul {
    device: Arc<Device>,
    handle: sys::cublasLtHandle_t,
    workspace: DeviceMemory,
    plans: Mutex<HashMap<Shape, Plan>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    n: usize,
    k: usize,
    element: Element,
    out: Element,
}

/// Descriptors and the algorithm for one shape; kept as long as the process runs the shape.
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: the handle and the descriptors are used under the lock of `plans`, from one thread at a time.
unsafe impl Send for Matmul {}
// SAFETY: as above.
unsafe impl Sync for Matmul {}

fn failed(call: &str, error: &result::CublasError) -> BackendError {
    BackendError::Device {
        device: DEVICE,
        what: format!("{call}: {error}"),
    }
}

impl Matmul {
    /// None where the library is not installed.
    pub(super) fn open(device: &Arc<Device>) -> Result<Option<Self>, BackendError> {
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        device.bind()?;
        let handle = beside_none(result::create_handle).map_err(|error| failed("cublasLtCreate", &error))?;
        Ok(Some(Self {
            workspace: device.alloc(WORKSPACE_BYTES, "the workspace of cuBLASLt")?,
            device: Arc::clone(device),
            handle,
            plans: Mutex::default(),
        }))
    }

    /// The product without its bias.
    pub(super) fn run(&self, product: &Product<'_>, rows: usize) -> Result<(), BackendError> {
        let shape = Shape {
            rows,
            n: product.weight.rows,
            k: product.weight.cols,
            element: product.weight.element,
            out: product.out.element(),
        };
        self.device.bind()?;
        self.device.settle()?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(shape) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(
                self.plan(shape)
                    .map_err(|error| failed("the choice of a matrix product", &error))?,
            ),
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the descriptors were made for these shapes, the buffers are as long as those say, and the workspace is
        // used by one product at a time, in the order of the stream.
        let answer = unsafe {
            result::matmul(
                self.handle,
                plan.product,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                product.matrix as *const c_void,
                plan.weight,
                product.x as *const c_void,
                plan.x,
                product.out.address() as *const c_void,
                plan.out,
                product.out.address() as *mut c_void,
                plan.out,
                &raw const plan.algorithm,
                self.workspace.address() as *mut c_void,
                self.workspace.size(),
                self.device.stream.cast(),
            )
        };
        answer.map_err(|error| failed("cublasLtMatmul", &error))
    }

    /// In cuBLAS' order (columns first) the result is `(n, rows)`, the weight `(k, n)` transposed, x `(k, rows)`.
    fn plan(&self, shape: Shape) -> Result<Plan, result::CublasError> {
        let Shape {
            rows,
            n,
            k,
            element,
            out,
        } = shape;
        let layout = |kind: Element, rows: usize, cols: usize| {
            result::create_matrix_layout(data_type(kind), rows as u64, cols as u64, rows as i64)
        };
        let product = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )?;
        // SAFETY: the attribute is of this type and size.
        unsafe {
            result::set_matmul_desc_attribute(
                product,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const TRANSPOSED).cast(),
                size_of_val(&TRANSPOSED),
            )?;
        }
        let (weight, x, out) = (
            layout(element, k, n)?,
            layout(element, k, rows)?,
            layout(out, n, rows)?,
        );
        let preference = result::create_matmul_pref()?;
        let workspace = self.workspace.size();
        // SAFETY: the attribute is of this type and size.
        unsafe {
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of_val(&workspace),
            )?;
        }
        // SAFETY: every descriptor was made above.
        let found = unsafe {
            result::get_matmul_algo_heuristic(self.handle, product, weight, x, out, out, preference)
        };
        // SAFETY: made above, and not used after this.
        unsafe { result::destroy_matmul_pref(preference)? };
        Ok(Plan {
            product,
            weight,
            x,
            out,
            algorithm: found?.algo,
        })
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        if self.device.synchronize().is_err() {
            return;
        }
        for plan in self
            .plans
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            // SAFETY: each was made by `plan` and is destroyed once.
            unsafe {
                let _ = result::destroy_matmul_desc(plan.product);
                for layout in [plan.weight, plan.x, plan.out] {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
        }
        let handle = std::mem::replace(&mut self.handle, ptr::null_mut());
        // SAFETY: made by `open`, destroyed once.
        let _ = beside_none(|| unsafe { result::destroy_handle(handle) });
    }
}

fn data_type(element: Element) -> sys::cudaDataType {
    match element {
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}
