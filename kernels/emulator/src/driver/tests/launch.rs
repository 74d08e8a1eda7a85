use std::ffi::{CStr, c_char};

use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute as Attribute, CUlaunchAttribute, CUlaunchAttributeID as Id,
    CUlaunchAttributeValue, CUlaunchConfig, CUmodule,
};

use super::*;
use crate::driver::{
    launch::{cuLaunchKernelEx, cuOccupancyMaxActiveClusters},
    module::{
        cuFuncGetName, cuFuncSetAttribute, cuModuleEnumerateFunctions, cuModuleGetFunctionCount,
        cuModuleLoadData, cuModuleUnload,
    },
};

/// Writes value + i to word i of n.
const COUNT: &CStr = c"
.version 9.0
.target sm_90a
.address_size 64

.visible .entry count(
	.param .u64 count_param_0,
	.param .u16 count_param_1,
	.param .u32 count_param_2,
	.param .u32 count_param_3
)
{
	.reg .pred 	%p<2>;
	.reg .b32 	%r<8>;
	.reg .b64 	%rd<5>;

	ld.param.u64 	%rd1, [count_param_0];
	ld.param.u32 	%r2, [count_param_2];
	ld.param.u32 	%r3, [count_param_3];
	mov.u32 	%r4, %ctaid.x;
	mov.u32 	%r5, %ntid.x;
	mov.u32 	%r6, %tid.x;
	mad.lo.s32 	%r1, %r4, %r5, %r6;
	setp.ge.s32 	%p1, %r1, %r3;
	@%p1 bra 	$L__BB0_2;

	cvta.to.global.u64 	%rd2, %rd1;
	mul.wide.s32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd2, %rd3;
	add.s32 	%r7, %r1, %r2;
	st.global.u32 	[%rd4], %r7;

$L__BB0_2:
	ret;

}
";

fn load() -> (CUmodule, CUfunction) {
    open();
    // SAFETY: there is room for a handle, and the text ends with a zero.
    let module: CUmodule = made(ptr::null_mut(), |to| unsafe {
        cuModuleLoadData(to, COUNT.as_ptr().cast())
    });
    // SAFETY: there is room for a number.
    let count = made(0, |to| unsafe { cuModuleGetFunctionCount(to, module) });
    assert_eq!(count, 1);
    // SAFETY: there is room for one handle.
    let function: CUfunction = made(ptr::null_mut(), |to| unsafe {
        cuModuleEnumerateFunctions(to, 1, module)
    });
    (module, function)
}

fn config(of: CUstream, blocks: u32, threads: u32) -> CUlaunchConfig {
    CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: of,
        attrs: ptr::null_mut(),
        numAttrs: 0,
    }
}

fn launch(config: &CUlaunchConfig, function: CUfunction, to: u64, value: u32, n: i32) -> Code {
    let (mut to, mut skipped, mut value, mut n) = (to, 7_u16, value, n);
    let mut parameters: [*mut c_void; 4] = [
        (&raw mut to).cast(),
        (&raw mut skipped).cast(),
        (&raw mut value).cast(),
        (&raw mut n).cast(),
    ];
    // SAFETY: the kernel's four parameters, of its types.
    unsafe { cuLaunchKernelEx(config, function, parameters.as_mut_ptr(), ptr::null_mut()) }
}

#[test]
fn a_kernel_runs_with_its_arguments_as_they_were_when_it_was_launched() {
    let (module, function) = load();
    // SAFETY: there is room for a pointer.
    let name: *const c_char = made(ptr::null(), |to| unsafe { cuFuncGetName(to, function) });
    // SAFETY: the name ends with a zero.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"count");
    let of = new_stream();
    let address = alloc(4 * 65);
    let release = hold(of);
    assert_eq!(launch(&config(of, 3, 32), function, address, 100, 64), OK);
    drop(release);
    let bytes = read::<260>(address, of);
    let words = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    let expected = (100..164).chain([u32::MAX]);
    assert_eq!(words.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_eq!(cuMemFree_v2(address), OK);
    assert_eq!(cuModuleUnload(module), OK);
    assert_eq!(
        launch(&config(of, 1, 32), function, address, 0, 0),
        Code::CUDA_ERROR_INVALID_HANDLE
    );
    assert_eq!(cuStreamDestroy_v2(of), OK);
}

#[test]
fn launches_beyond_the_limits_of_a_gpu_are_refused() {
    const REFUSED: Code = Code::CUDA_ERROR_INVALID_VALUE;
    let (module, function) = load();
    let of = new_stream();
    let answer = |config: &CUlaunchConfig| launch(config, function, 0, 0, 0);
    assert_eq!(answer(&config(of, 1, 1024)), OK);
    assert_eq!(answer(&config(of, 1, 1025)), REFUSED);
    assert_eq!(answer(&config(of, 0, 32)), REFUSED);
    let mut large = config(of, 1, 32);
    large.sharedMemBytes = 100 << 10;
    assert_eq!(answer(&large), REFUSED, "before it was asked for");
    let ask = |bytes| {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        cuFuncSetAttribute(function, attribute, bytes)
    };
    assert_eq!(ask(228 << 10), REFUSED);
    assert_eq!(ask(100 << 10), OK);
    assert_eq!(answer(&large), OK);
    let mut value = CUlaunchAttributeValue { pad: [0; 64] };
    (value.clusterDim.x, value.clusterDim.y, value.clusterDim.z) = (4, 1, 1);
    let mut cluster = CUlaunchAttribute {
        id: Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value,
    };
    for (blocks, expected) in [(8, OK), (6, REFUSED)] {
        let mut clusters = config(of, blocks, 32);
        (clusters.attrs, clusters.numAttrs) = (&raw mut cluster, 1);
        assert_eq!(answer(&clusters), expected, "{blocks}");
        let mut count = -1;
        // SAFETY: there is room for a number.
        let asked = unsafe { cuOccupancyMaxActiveClusters(&raw mut count, function, &raw const clusters) };
        assert_eq!(
            (asked, count),
            (expected, if expected == OK { 7 * 4 + 1 } else { -1 }),
            "of 132 multiprocessors, 18 together"
        );
    }
    assert_eq!(cuStreamSynchronize(of), OK);
    assert_eq!(cuModuleUnload(module), OK);
    assert_eq!(cuStreamDestroy_v2(of), OK);
}

#[test]
fn machine_code_is_not_taken_for_a_text() {
    open();
    let mut module: CUmodule = ptr::null_mut();
    // SAFETY: there is room for a handle, and the image has a zero.
    let answer = unsafe { cuModuleLoadData(&raw mut module, c"\x50\xed\x55\xba\x01".as_ptr().cast()) };
    assert_eq!(answer, Code::CUDA_ERROR_NO_BINARY_FOR_GPU);
}
