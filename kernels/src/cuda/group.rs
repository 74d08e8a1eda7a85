//! Ranks: the GPUs of one process that share a model.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cudarc::driver::{result, sys};

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaUnavailable, DEVICE, Element,
        collective::{BULK_CHANNELS, CHANNELS, HEADER_BYTES, MAX_LINES, MAX_RANKS, MOST_RESULTS, PART_BYTES},
        device::{Device, DeviceMemory, check},
        nccl::{Comms, Watch},
    },
    exchange::Exchange,
    ops::Rank,
};

/// The host waits so long for another rank's thread: longer than kernels do, which say more.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the GPUs of a group reach one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// One another's memory where they can, else NCCL.
    Best,
    /// NCCL, also where they could reach one another's memory: for comparisons.
    Nccl,
}

/// A rank's place among the others.
pub(super) struct Member {
    pub(super) rank: Rank,
    pub(super) group: Arc<Group>,
}

pub(super) struct Group {
    pub(super) transport: Transport,
    pub(super) addresses: Exchange<u64>,
    devices: Vec<Arc<Device>>,
}

/// By which way sums go.
pub(super) enum Transport {
    /// Kernels write into the memory of other GPUs.
    Peers(Peers),
    /// A library that goes through the host's memory, or the network.
    Nccl {
        comms: Comms,
        /// One more than the rank that has left; 0 while all are there.
        left: Arc<AtomicU32>,
    },
}

/// Memory that GPUs exchange.
pub(super) struct Peers {
    /// What each rank writes on the others; see `Header` in cuda/exchange.cuh.
    pub(super) memory: Vec<DeviceMemory>,
    pub(super) given_up: GivenUp,
    /// Blocks that run at once on every rank.
    pub(super) resident: usize,
}

impl CudaBackend {
    /// The first `count` GPUs as the ranks of one model, computing with `element`.
    ///
    /// # Errors
    /// [`CudaUnavailable`], also where GPUs do not reach one another's memory and NCCL is not installed.
    pub fn ranks(count: usize, element: Element, link: Link) -> Result<Vec<Self>, CudaUnavailable> {
        let mut backends = (0..count)
            .map(|ordinal| Self::new(ordinal, element))
            .collect::<Result<Vec<_>, _>>()?;
        if count == 1 {
            return Ok(backends);
        }
        let devices: Vec<&Arc<Device>> = backends.iter().map(|backend| &backend.device).collect();
        let group = Arc::new(Group::connect(&devices, link)?);
        for (index, backend) in backends.iter_mut().enumerate() {
            backend.member = Some(Member {
                rank: Rank { index, count },
                group: Arc::clone(&group),
            });
        }
        Ok(backends)
    }

    /// Whether the order in which sums over GPUs are made depends on what else is summed.
    pub fn adds_in_varying_order(&self) -> bool {
        let is_nccl = |member: &Member| matches!(member.group.transport, Transport::Nccl { .. });
        self.member
            .as_ref()
            .is_some_and(|member| member.rank.count > 2 && is_nccl(member))
    }

    /// How the GPUs that share this one's model reach one another, in a word; `None` for one alone.
    pub fn link_name(&self) -> Option<&'static str> {
        self.member.as_ref().map(|member| match member.group.transport {
            Transport::Peers(_) => "peer memory",
            Transport::Nccl { .. } => "NCCL",
        })
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
    fn connect(devices: &[&Arc<Device>], link: Link) -> Result<Self, CudaUnavailable> {
        probe_ranks(devices.len())?;
        let transport = match link {
            Link::Nccl => Transport::nccl(devices)?,
            Link::Best => match Peers::connect(devices) {
                Ok(peers) => Transport::Peers(peers),
                Err(CudaUnavailable::NoPeerAccess { from, to }) => {
                    Transport::nccl(devices).map_err(|error| error.without_peer_access(from, to))?
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Self {
            transport,
            addresses: Exchange::new(DEVICE, devices.len(), PATIENCE),
            devices: devices.iter().copied().cloned().collect(),
        })
    }

    /// The rank that waits no longer, if there is one.
    fn left(&self) -> Option<u32> {
        match &self.transport {
            Transport::Peers(peers) => peers.given_up.rank(),
            Transport::Nccl { left, .. } => left.load(Ordering::Acquire).checked_sub(1),
        }
    }

    fn leave(&self, rank: Rank) {
        match &self.transport {
            Transport::Peers(peers) => peers.given_up.set(rank),
            Transport::Nccl { left, .. } => left.store(1 + rank.index as u32, Ordering::Release),
        }
    }
}

impl Transport {
    fn nccl(devices: &[&Arc<Device>]) -> Result<Self, CudaUnavailable> {
        let comms = Comms::connect(devices)?;
        let left = Arc::new(AtomicU32::new(0));
        for (rank, device) in devices.iter().enumerate() {
            device.watch(Watch::new(&comms, rank, Arc::clone(&left)));
        }
        Ok(Self::Nccl { comms, left })
    }
}

impl Peers {
    fn connect(devices: &[&Arc<Device>]) -> Result<Self, CudaUnavailable> {
        for from in devices {
            for to in devices {
                if from.ordinal != to.ordinal {
                    from.reach(to)?;
                }
            }
        }
        let results = 2 * devices.len() * MOST_RESULTS * 8;
        let lines = CHANNELS * 2 * devices.len() * MAX_LINES * 16;
        let parts = BULK_CHANNELS * 2 * devices.len() * PART_BYTES;
        let memory = |device: &&Arc<Device>| {
            let memory = device.alloc(HEADER_BYTES + results + lines + parts, "what GPUs exchange")?;
            // Others write there as soon as they are launched.
            device.synchronize()?;
            Ok(memory)
        };
        let num_sms = devices.iter().map(|device| device.facts.num_sms).min();
        Ok(Self {
            memory: devices.iter().map(memory).collect::<Result<_, BackendError>>()?,
            given_up: GivenUp::alloc(devices[0])?,
            resident: num_sms.unwrap_or(1),
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
pub(super) struct GivenUp {
    device: Arc<Device>,
    pub(super) word: *mut u32,
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
        self.group.leave(self.rank);
        self.group.addresses.leave(self.rank);
    }

    /// An error once a rank waits no longer: what was computed since is worth nothing.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        match self.group.left() {
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
