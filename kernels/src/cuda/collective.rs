//! Ranks: the GPUs of one process that share a model, each reaching the others' memory.

use std::{sync::Arc, time::Duration};

use cudarc::driver::{result, sys};

use crate::{
    backend::BackendError,
    cpu::shape_error,
    cuda::{
        CudaBackend, CudaBuffer, CudaUnavailable, CudaWeight, DEVICE, Element,
        device::{Device, DeviceMemory, check},
        launch::Launch,
        norm::row_threads,
    },
    exchange::Exchange,
    ops::{CollectiveOps, GatheredColumns, LinearOps, NormOps, Rank},
};

// As in cuda/collective.cu.
const MAX_RANKS: usize = 8;
const CHANNELS: usize = 128;
const MAX_LINES: usize = 2048;
const BULK_CHANNELS: usize = 64;
const PART_BYTES: usize = 32768;
const HEADER_BYTES: usize = 4 * CHANNELS * (3 + 3 * MAX_RANKS);

/// Up to so many bytes are summed in lines, which is quickest; above, the lines' double traffic costs more.
const LINES_BYTES: usize = 1 << 20;
/// The host waits so long for another rank's thread: longer than kernels do, which say more.
const PATIENCE: Duration = Duration::from_secs(30);

/// A rank's place among the others.
pub(super) struct Member {
    pub(super) rank: Rank,
    group: Arc<Group>,
}

struct Group {
    /// What each rank writes on the others; see `Header` in cuda/collective.cu.
    memory: Vec<DeviceMemory>,
    given_up: GivenUp,
    /// Blocks that run at once on every rank.
    resident: usize,
    addresses: Exchange<u64>,
    devices: Vec<Arc<Device>>,
}

impl CudaBackend {
    /// The first `count` GPUs as the ranks of one model, computing with `element`.
    ///
    /// # Errors
    /// [`CudaUnavailable`], also where GPUs do not reach one another's memory.
    pub fn ranks(count: usize, element: Element) -> Result<Vec<Self>, CudaUnavailable> {
        let mut backends = (0..count)
            .map(|ordinal| Self::new(ordinal, element))
            .collect::<Result<Vec<_>, _>>()?;
        if count == 1 {
            return Ok(backends);
        }
        let devices: Vec<&Arc<Device>> = backends.iter().map(|backend| &backend.device).collect();
        let group = Arc::new(Group::connect(&devices)?);
        for (index, backend) in backends.iter_mut().enumerate() {
            backend.member = Some(Member {
                rank: Rank { index, count },
                group: Arc::clone(&group),
            });
        }
        Ok(backends)
    }

    fn group(&self) -> Option<&Member> {
        self.member.as_ref()
    }
}

/// Whether the first `count` GPUs are there and can share a model.
///
/// # Errors
/// [`CudaUnavailable`].
pub fn probe_ranks(count: usize) -> Result<(), CudaUnavailable> {
    if count > MAX_RANKS {
        return Err(CudaUnavailable::TooManyRanks {
            wanted: count,
            most: MAX_RANKS,
        });
    }
    let present = super::device::count()?;
    if count > present {
        return Err(CudaUnavailable::TooFewGpus {
            wanted: count,
            present,
        });
    }
    (0..count).try_for_each(|ordinal| super::probe(ordinal).map(drop))
}

impl Group {
    fn connect(devices: &[&Arc<Device>]) -> Result<Self, CudaUnavailable> {
        probe_ranks(devices.len())?;
        for from in devices {
            for to in devices {
                if from.ordinal != to.ordinal {
                    from.reach(to)?;
                }
            }
        }
        let lines = CHANNELS * 2 * devices.len() * MAX_LINES * 16;
        let parts = BULK_CHANNELS * 2 * devices.len() * PART_BYTES;
        let memory = |device: &&Arc<Device>| {
            let memory = device.alloc(HEADER_BYTES + lines + parts, "what GPUs exchange")?;
            // Others write there as soon as they are launched.
            device.synchronize()?;
            Ok(memory)
        };
        let num_sms = devices.iter().map(|device| device.facts.num_sms).min();
        Ok(Self {
            memory: devices.iter().map(memory).collect::<Result<_, BackendError>>()?,
            given_up: GivenUp::alloc(devices[0])?,
            resident: num_sms.unwrap_or(1),
            addresses: Exchange::new(DEVICE, devices.len(), PATIENCE),
            devices: devices.iter().copied().cloned().collect(),
        })
    }
}

impl Drop for Group {
    /// What kernels of one GPU still write is memory of another.
    fn drop(&mut self) {
        for device in &self.devices {
            let _ = device.synchronize();
        }
    }
}

impl Device {
    /// Lets kernels of this GPU use the memory of `other`.
    fn reach(&self, other: &Self) -> Result<(), CudaUnavailable> {
        let mut can = 0;
        // SAFETY: both are devices of the driver.
        check("cuDeviceCanAccessPeer", unsafe {
            sys::cuDeviceCanAccessPeer(&raw mut can, self.gpu, other.gpu)
        })?;
        if can == 0 {
            return Err(CudaUnavailable::NoPeerAccess {
                from: self.ordinal,
                to: other.ordinal,
            });
        }
        self.bind()?;
        // SAFETY: contexts live as long as their devices; access ends with this device's context.
        match unsafe { sys::cuCtxEnablePeerAccess(other.context, 0) } {
            sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
            answer => Ok(check("cuCtxEnablePeerAccess", answer)?),
        }
    }
}

/// A word of the host that all GPUs see: 0, or one more than the rank that waits no longer.
struct GivenUp {
    device: Arc<Device>,
    word: *mut u32,
}

// SAFETY: the word is read and written as a whole, by `read_volatile` and `write_volatile` alone.
unsafe impl Send for GivenUp {}
// SAFETY: as above.
unsafe impl Sync for GivenUp {}

impl GivenUp {
    fn alloc(device: &Arc<Device>) -> Result<Self, BackendError> {
        device.bind()?;
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the memory is used through `GivenUp` and by kernels of the group that owns it.
        let memory = unsafe { result::malloc_host(size_of::<u32>(), flags) };
        let word = memory
            .map_err(|error| super::device::failed("cuMemHostAlloc", &error))?
            .cast::<u32>();
        // SAFETY: just allocated.
        unsafe { word.write_volatile(0) };
        Ok(Self {
            device: Arc::clone(device),
            word,
        })
    }

    fn rank(&self) -> Option<u32> {
        // SAFETY: allocated by `alloc`, and freed when this is dropped.
        unsafe { self.word.read_volatile() }.checked_sub(1)
    }

    fn set(&self, rank: Rank) {
        // SAFETY: as above.
        unsafe { self.word.write_volatile(1 + rank.index as u32) };
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: allocated by `alloc`, freed once; the group has waited for every GPU.
            let _ = unsafe { result::free_host(self.word.cast()) };
        }
    }
}

impl Member {
    pub(super) fn leave(&self) {
        self.group.given_up.set(self.rank);
        self.group.addresses.leave(self.rank);
    }

    /// An error once a rank waits no longer: what was computed since is worth nothing.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        match self.group.given_up.rank() {
            None => Ok(()),
            Some(rank) => Err(BackendError::Device {
                device: DEVICE,
                what: format!("rank {rank} of {} has failed, or waited in vain", self.rank.count),
            }),
        }
    }

    /// Waits until every rank's thread is here: so that none launches what waits for another GPU while that one's thread
    /// does what its driver may want to be idle for.
    pub(super) fn meet(&self) -> Result<(), BackendError> {
        self.group.addresses.exchange(self.rank, 0).map(drop)
    }
}

impl Launch<'_> {
    /// `struct Group`, a kernel's last argument.
    fn group(self, member: &Member) -> Self {
        let addresses = member.group.memory.iter().map(DeviceMemory::address);
        let padded = addresses.chain(std::iter::repeat(0)).take(MAX_RANKS);
        let Rank { index, count } = member.rank;
        padded
            .fold(self, Self::wide)
            .wide(member.group.given_up.word as u64)
            .wide(index as u64 | (count as u64) << 32)
    }
}

impl CollectiveOps for CudaBackend {
    fn all_reduce(&self, x: &mut CudaBuffer, len: usize) -> Result<(), BackendError> {
        x.check("all_reduce: x", len)?;
        let Some(member) = self.group() else {
            return Ok(());
        };
        let chunk_bytes = member.rank.count * PART_BYTES;
        let chunks = (len * x.element().size()).div_ceil(chunk_bytes);
        self.device
            .kernel(&format!("all_reduce_{}", x.element().name()))?
            .grid(chunks.min(BULK_CHANNELS).min(member.group.resident), 1, 1)
            .threads(512)
            .wide(x.address())
            .wide(len as u64)
            .group(member)
            .run()
    }

    fn all_reduce_add_norm(
        &self,
        x: &mut CudaBuffer,
        residual: &mut CudaBuffer,
        weight: &CudaBuffer,
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let what = "all_reduce_add_norm";
        let size = x.element().size();
        let fits =
            width.is_multiple_of(4) && width * size <= MAX_LINES * 8 && rows * width * size <= LINES_BYTES;
        let Some(member) = self.group().filter(|_| fits && x.element() == out.element()) else {
            self.all_reduce(x, rows * width)?;
            return self.add_rms_norm(x, residual, weight, eps, (rows, width), out);
        };
        x.check(what, rows * width)?;
        residual.check(what, rows * width)?;
        weight.check(what, width)?;
        out.check(what, rows * width)?;
        let types = format!("{}_{}", x.element().name(), residual.element().name());
        self.device
            .kernel(&format!("all_reduce_add_norm_{types}"))?
            .grid(rows.min(CHANNELS).min(member.group.resident), 1, 1)
            .threads(row_threads(width))
            .wide(x.address())
            .wide(residual.address())
            .wide(weight.address())
            .float(eps)
            .int(rows)
            .int(width)
            .wide(out.address())
            .group(member)
            .run()
    }

    fn gathered_linear(
        &self,
        x: &CudaBuffer,
        weight: &CudaWeight,
        rows: usize,
        columns: GatheredColumns<'_, Self>,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let Some(member) = self.group() else {
            return self.linear(x, weight, None, rows, out);
        };
        let what = "gathered_linear";
        let GatheredColumns { part, own, total } = columns;
        self.linear(x, weight, None, rows, part)?;
        part.check(what, rows * own.len())?;
        if part.element() != Element::F32 || out.element() != Element::F32 || own.len() != weight.rows {
            return Err(shape_error(format!(
                "{what}: {} columns as {} of a weight of {} rows, gathered as {}: both are f32",
                own.len(),
                part.element().name(),
                weight.rows,
                out.element().name()
            )));
        }
        if member.rank.index == 0 {
            out.check(what, rows * total)?;
        }
        // As often as it is launched or recorded; what is played back has the address.
        let addresses = member.group.addresses.exchange(member.rank, out.address())?;
        // Of as many blocks on every rank, whatever its part.
        let blocks = (rows * total).div_ceil(member.rank.count * 1024);
        self.device
            .kernel("gather_columns")?
            .grid(blocks.min(CHANNELS).min(member.group.resident), 1, 1)
            .threads(512)
            .wide(part.address())
            .int(rows)
            .int(own.len())
            .wide(addresses[0])
            .int(total)
            .int(own.start)
            .group(member)
            .run()
    }
}
