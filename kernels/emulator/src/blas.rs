//! The functions of `libcublasLt`, as far as the kernels' crate calls them: products with sums in f32.

#[cfg(test)]
mod tests;

use std::{
    ffi::{c_int, c_void},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as PrefAttribute,
    cublasLtMatrixLayout_t, cublasStatus_t as Status, cudaDataType, cudaStream_t,
};

use crate::{
    driver::{Handles, current, forbid_beside_any, give, stream},
    element::Element,
};

/// Column by column, as cuBLAS has matrices.
#[derive(Clone, Copy)]
struct Layout {
    element: Element,
    rows: usize,
    columns: usize,
    /// Elements from one column to the next.
    stride: usize,
}

/// Whether each side is transposed.
#[derive(Clone, Copy, Default)]
struct Transposed {
    a: bool,
    b: bool,
}

struct Library;

struct Preference;

static LIBRARIES: Handles<Library> = Handles::new();
static LAYOUTS: Handles<Layout> = Handles::new();
static PRODUCTS: Handles<Mutex<Transposed>> = Handles::new();
static PREFERENCES: Handles<Preference> = Handles::new();

type Answer<T = ()> = Result<T, Status>;

fn code(answer: Answer) -> Status {
    answer.err().unwrap_or(Status::CUBLAS_STATUS_SUCCESS)
}

/// An answer of the driver as one of this library.
fn of_driver<T, E>(answer: Result<T, E>) -> Answer<T> {
    answer.map_err(|_| Status::CUBLAS_STATUS_EXECUTION_FAILED)
}

/// An answer about what the caller has given.
fn of_caller<T, E>(answer: Result<T, E>) -> Answer<T> {
    answer.map_err(|_| Status::CUBLAS_STATUS_INVALID_VALUE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the device, as the library does.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(handle: *mut cublasLtHandle_t) -> Status {
    let device = current().and_then(|device| forbid_beside_any(&device));
    let create = |()| {
        // SAFETY: the caller's.
        of_caller(unsafe { give(handle, LIBRARIES.add(Arc::new(Library))) })
    };
    code(of_driver(device).and_then(create))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(handle: cublasLtHandle_t) -> Status {
    let device = current().and_then(|device| forbid_beside_any(&device));
    code(of_driver(device).and_then(|()| of_caller(LIBRARIES.remove(handle)).map(drop)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    handle: *mut cublasLtMatrixLayout_t,
    kind: cudaDataType,
    rows: u64,
    columns: u64,
    stride: i64,
) -> Status {
    let element = match kind {
        cudaDataType::CUDA_R_32F => Element::F32,
        cudaDataType::CUDA_R_16F => Element::F16,
        cudaDataType::CUDA_R_16BF => Element::Bf16,
        _ => return Status::CUBLAS_STATUS_NOT_SUPPORTED,
    };
    let Some(stride) = u64::try_from(stride).ok().filter(|stride| *stride >= rows) else {
        return Status::CUBLAS_STATUS_INVALID_VALUE;
    };
    let layout = Layout {
        element,
        rows: rows as usize,
        columns: columns as usize,
        stride: stride as usize,
    };
    // SAFETY: the caller's.
    code(of_caller(unsafe { give(handle, LAYOUTS.add(Arc::new(layout))) }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutDestroy(handle: cublasLtMatrixLayout_t) -> Status {
    code(of_caller(LAYOUTS.remove(handle)).map(drop))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(
    handle: *mut cublasLtMatmulDesc_t,
    compute: cublasComputeType_t,
    scale: cudaDataType,
) -> Status {
    if (compute, scale) != (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F) {
        return Status::CUBLAS_STATUS_NOT_SUPPORTED;
    }
    // SAFETY: the caller's.
    code(of_caller(unsafe { give(handle, PRODUCTS.add(Arc::default())) }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescDestroy(handle: cublasLtMatmulDesc_t) -> Status {
    code(of_caller(PRODUCTS.remove(handle)).map(drop))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    handle: cublasLtMatmulDesc_t,
    attribute: DescAttribute,
    value: *const c_void,
    len: usize,
) -> Status {
    let set = |product: Arc<Mutex<Transposed>>| {
        if value.is_null() || len != size_of::<i32>() {
            return Err(Status::CUBLAS_STATUS_INVALID_VALUE);
        }
        // SAFETY: the caller has `len` bytes there.
        let is_transposed = match unsafe { value.cast::<i32>().read_unaligned() } {
            0 => false,
            1 => true,
            _ => return Err(Status::CUBLAS_STATUS_NOT_SUPPORTED),
        };
        let mut product = lock(&product);
        match attribute {
            DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA => product.a = is_transposed,
            DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB => product.b = is_transposed,
            _ => return Err(Status::CUBLAS_STATUS_NOT_SUPPORTED),
        }
        Ok(())
    };
    code(of_caller(PRODUCTS.get(handle)).and_then(set))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(handle: *mut cublasLtMatmulPreference_t) -> Status {
    // SAFETY: the caller's.
    code(of_caller(unsafe {
        give(handle, PREFERENCES.add(Arc::new(Preference)))
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceDestroy(handle: cublasLtMatmulPreference_t) -> Status {
    code(of_caller(PREFERENCES.remove(handle)).map(drop))
}

/// Any workspace will do: none is used.
#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    handle: cublasLtMatmulPreference_t,
    attribute: PrefAttribute,
    value: *const c_void,
    len: usize,
) -> Status {
    let is_known = attribute == PrefAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
        && len == size_of::<usize>()
        && !value.is_null();
    match is_known {
        true => code(of_caller(PREFERENCES.get(handle)).map(drop)),
        false => Status::CUBLAS_STATUS_NOT_SUPPORTED,
    }
}

/// The one algorithm, if the matrices go together.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    library: cublasLtHandle_t,
    product: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    c: cublasLtMatrixLayout_t,
    d: cublasLtMatrixLayout_t,
    preference: cublasLtMatmulPreference_t,
    wanted: c_int,
    results: *mut cublasLtMatmulHeuristicResult_t,
    count: *mut c_int,
) -> Status {
    let find = || {
        of_caller(LIBRARIES.get(library))?;
        of_caller(PREFERENCES.get(preference))?;
        Matrices::of(product, [a, b, c, d])?;
        if wanted < 1 {
            return Err(Status::CUBLAS_STATUS_INVALID_VALUE);
        }
        let result = cublasLtMatmulHeuristicResult_t {
            algo: cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: Status::CUBLAS_STATUS_SUCCESS,
            wavesCount: 1.0,
            reserved: [0; 4],
        };
        // SAFETY: the caller's.
        of_caller(unsafe { give(results, result).and(give(count, 1)) })
    };
    code(find())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
    library: cublasLtHandle_t,
    product: cublasLtMatmulDesc_t,
    alpha: *const c_void,
    a: *const c_void,
    a_layout: cublasLtMatrixLayout_t,
    b: *const c_void,
    b_layout: cublasLtMatrixLayout_t,
    beta: *const c_void,
    c: *const c_void,
    c_layout: cublasLtMatrixLayout_t,
    d: *mut c_void,
    d_layout: cublasLtMatrixLayout_t,
    _algorithm: *const cublasLtMatmulAlgo_t,
    _workspace: *mut c_void,
    _workspace_len: usize,
    of: cudaStream_t,
) -> Status {
    let ask = || {
        of_caller(LIBRARIES.get(library))?;
        let matrices = Matrices::of(product, [a_layout, b_layout, c_layout, d_layout])?;
        if alpha.is_null() || beta.is_null() {
            return Err(Status::CUBLAS_STATUS_INVALID_VALUE);
        }
        // SAFETY: the caller has factors of the product's scale type, f32, in the host's memory.
        let factors = unsafe { [alpha.cast::<f32>().read(), beta.cast::<f32>().read()] };
        let addresses = [a.addr(), b.addr(), c.addr(), d.addr()].map(|address| address as u64);
        let stream = of_driver(stream(of))?;
        of_driver(stream.ask(move || matrices.multiply(factors, addresses)))
    };
    code(ask())
}

/// `d (m, n) = alpha op(a) (m, k) op(b) (k, n) + beta c`.
#[derive(Clone, Copy)]
struct Matrices {
    transposed: Transposed,
    layouts: [Layout; 4],
    m: usize,
    n: usize,
    k: usize,
}

impl Matrices {
    fn of(product: cublasLtMatmulDesc_t, layouts: [cublasLtMatrixLayout_t; 4]) -> Answer<Self> {
        let transposed = *lock(&*of_caller(PRODUCTS.get(product))?);
        let layout = |i: usize| of_caller(LAYOUTS.get(layouts[i])).map(|layout| *layout);
        let [a, b, c, d] = [layout(0)?, layout(1)?, layout(2)?, layout(3)?];
        let (m, k) = a.shape(transposed.a);
        let (b_k, n) = b.shape(transposed.b);
        let fits = k == b_k
            && [c, d]
                .iter()
                .all(|layout| (layout.rows, layout.columns) == (m, n));
        match fits && c.element == d.element {
            true => Ok(Self {
                transposed,
                layouts: [a, b, c, d],
                m,
                n,
                k,
            }),
            false => Err(Status::CUBLAS_STATUS_INVALID_VALUE),
        }
    }

    fn multiply(&self, [alpha, beta]: [f32; 2], addresses: [u64; 4]) -> Result<(), String> {
        let [a, b, c, d] = self.layouts;
        let (left, right) = (a.read("a", addresses[0])?, b.read("b", addresses[1])?);
        // What c has counts only with a factor: it may be unwritten, and no number.
        let mut sums = match beta == 0.0 {
            true => vec![0.0; self.m * self.n],
            false => c.read("c", addresses[2])?,
        };
        let steps = |layout: &Layout, transposed| match transposed {
            false => (1, layout.rows as isize),
            true => (layout.rows as isize, 1),
        };
        let (left_steps, right_steps) = (steps(&a, self.transposed.a), steps(&b, self.transposed.b));
        // SAFETY: the three are as long as their shapes, and lie column by column without gaps.
        unsafe {
            matrixmultiply::sgemm(
                self.m,
                self.k,
                self.n,
                alpha,
                left.as_ptr(),
                left_steps.0,
                left_steps.1,
                right.as_ptr(),
                right_steps.0,
                right_steps.1,
                beta,
                sums.as_mut_ptr(),
                1,
                self.m as isize,
            );
        }
        d.write("d", addresses[3], &sums)
    }
}

impl Layout {
    fn shape(&self, is_transposed: bool) -> (usize, usize) {
        match is_transposed {
            true => (self.columns, self.rows),
            false => (self.rows, self.columns),
        }
    }

    /// The columns without what lies between them.
    fn read(&self, name: &str, address: u64) -> Result<Vec<f32>, String> {
        let mut values = Vec::with_capacity(self.rows * self.columns);
        for column in 0..self.columns {
            let read = self
                .element
                .read(self.column(address, column), self.rows, &mut values);
            read.map_err(|error| format!("cublasLtMatmul: {name}: {error}"))?;
        }
        Ok(values)
    }

    fn write(&self, name: &str, address: u64, values: &[f32]) -> Result<(), String> {
        for (column, values) in values.chunks(self.rows.max(1)).enumerate() {
            let written = self.element.write(self.column(address, column), values);
            written.map_err(|error| format!("cublasLtMatmul: {name}: {error}"))?;
        }
        Ok(())
    }

    fn column(&self, address: u64, column: usize) -> u64 {
        address + (column * self.stride * self.element.size()) as u64
    }
}
