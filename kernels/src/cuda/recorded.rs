//! Whole steps as CUDA graphs.

use std::{collections::HashMap, ptr, sync::Arc};

use cudarc::driver::sys;

use crate::{
    backend::{BackendError, StepShape},
    cuda::{
        device::{Device, check},
        recordings,
    },
};

/// Shapes of which a graph is kept; beyond that the oldest goes.
const MAX_GRAPHS: usize = 512;

/// Steps by their shape.
///
/// The first step of a shape runs kernel by kernel, so that what is set up lazily is there; the second is captured, and
/// launched once `captured` returns.
#[derive(Default)]
pub struct Recorded {
    steps: HashMap<StepShape, Step>,
    order: std::collections::VecDeque<StepShape>,
}

enum Step {
    Seen,
    Graph(Graph),
}

impl Recorded {
    pub(super) fn run(
        &mut self,
        device: &Arc<Device>,
        shape: StepShape,
        launch: &mut dyn FnMut() -> Result<(), BackendError>,
        captured: &dyn Fn() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        match self.steps.get(&shape) {
            Some(Step::Graph(graph)) => graph.launch(),
            Some(Step::Seen) => {
                let graph = Graph::capture(device, launch)?;
                captured()?;
                graph.launch()?;
                self.steps.insert(shape, Step::Graph(graph));
                Ok(())
            }
            None => {
                if self.order.len() == MAX_GRAPHS
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.steps.remove(&oldest);
                }
                self.order.push_back(shape);
                self.steps.insert(shape, Step::Seen);
                launch()
            }
        }
    }
}

struct Graph {
    device: Arc<Device>,
    executable: sys::CUgraphExec,
}

// SAFETY: a handle of the driver, used by one thread at a time.
unsafe impl Send for Graph {}

impl Graph {
    fn capture(
        device: &Arc<Device>,
        launch: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<Self, BackendError> {
        device.bind()?;
        let _recording = recordings::begin();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the device.
        check("cuStreamBeginCapture", unsafe {
            sys::cuStreamBeginCapture_v2(device.stream, mode)
        })?;
        let launched = launch();
        let mut graph = ptr::null_mut();
        // SAFETY: the capture was begun above; it is ended whether or not the launches went well.
        let ended = check("cuStreamEndCapture", unsafe {
            sys::cuStreamEndCapture(device.stream, &raw mut graph)
        });
        launched.and(ended)?;
        let mut executable = ptr::null_mut();
        // SAFETY: the graph was just captured.
        let instantiated = check("cuGraphInstantiate", unsafe {
            sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0)
        });
        // SAFETY: the executable graph does not need the one that it was made from.
        unsafe {
            let _ = sys::cuGraphDestroy(graph);
        }
        instantiated?;
        Ok(Self {
            device: Arc::clone(device),
            executable,
        })
    }

    fn launch(&self) -> Result<(), BackendError> {
        self.device.bind()?;
        // SAFETY: what the graph's kernels read and write is alive: the recorded steps belong to their buffers' owner.
        check("cuGraphLaunch", unsafe {
            sys::cuGraphLaunch(self.executable, self.device.stream)
        })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.synchronize().is_ok() {
            // SAFETY: made by `capture`, destroyed once, and not running any more.
            unsafe {
                let _ = sys::cuGraphExecDestroy(self.executable);
            }
        }
    }
}
