//! The loop: receive, schedule, prepare, forward, process, in a thread of its own.
//!
//! It is the only place that knows a clock. While there is nothing to do it is blocked on its channel.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_engine::{EngineError, EngineLoad, Event, KvEvent, LaunchConfig, ModelCard, SharedEngine};
use ferrum_kernels::BackendError;
use tokio::sync::mpsc;

use crate::{
    handle::{Bounds, Handle, Occupancy, Shared, Submission},
    meter::{Meter, StepCounts},
};

/// Least time between two reports of the load while the engine is busy.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// One task's part of the loop. It owns its requests: whatever happens in a step, [`Self::fail`] reaches
/// every client.
pub(crate) trait Worker: Send + 'static {
    /// One step, as decided.
    type Batch;

    /// Queues a request.
    fn receive(&mut self, submission: Submission);

    /// Forgets the requests whose clients are gone, and frees what they held.
    fn forget_cancelled(&mut self);

    /// Decides the next step; called only while something waits or runs. `None` while all that there is to do needs what
    /// is under way.
    fn schedule(&mut self) -> Option<Self::Batch>;

    /// Writes the inputs of the step to the device.
    fn prepare(&mut self, batch: &Self::Batch) -> Result<(), BackendError>;

    /// Asks for the step.
    fn forward(&mut self, batch: Self::Batch) -> Result<(), BackendError>;

    /// Steps that were asked for and not processed.
    fn under_way(&self) -> usize;

    /// Whether the next step can be decided before the one under way is processed.
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Waits for the oldest step under way and tells the clients what it brought. With how long the device took.
    fn process(&mut self) -> Result<(StepCounts, Duration), BackendError>;

    /// Requests that wait, requests that run.
    fn occupancy(&self) -> (usize, usize);

    /// What it can say of the load; rates and totals are the loop's.
    fn load(&self) -> EngineLoad;

    /// Changes of the prefix cache since the last call.
    fn take_events(&mut self) -> Vec<KvEvent>;

    /// Ends every request with `error`.
    fn fail(&mut self, error: &EngineError);
}

/// Starts the loop of `worker`. It ends when the engine has been dropped and all requests have ended, or
/// with a failure.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn spawn<W: Worker>(
    worker: W,
    card: ModelCard,
    config: &LaunchConfig,
) -> std::io::Result<SharedEngine> {
    let load = Meter::default().complete(worker.load());
    let (engine, submissions) = Loop::new(worker, load);
    let shared = Arc::clone(&engine.shared);
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || engine.run())?;
    let bounds = Bounds {
        max_waiting: config.max_waiting,
        max_num_seqs: config.max_num_seqs,
    };
    Ok(Arc::new(Handle {
        card,
        bounds,
        submissions,
        shared,
    }))
}

/// Runs one step of `worker`, without a loop; for warming up.
pub(crate) fn step<W: Worker>(worker: &mut W) -> Result<(), BackendError> {
    if let Some(batch) = worker.schedule() {
        worker.prepare(&batch)?;
        worker.forward(batch)?;
        worker.process()?;
    }
    Ok(())
}

/// What a panic was about.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&'static str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

struct Loop<W> {
    worker: W,
    receiver: mpsc::UnboundedReceiver<Submission>,
    shared: Arc<Shared>,
    meter: Meter,
    /// Up to when time was counted.
    counted: Instant,
    reported: Option<Instant>,
}

impl<W: Worker> Loop<W> {
    /// A loop that has told `load`, and where it gets requests from.
    fn new(worker: W, load: EngineLoad) -> (Self, mpsc::UnboundedSender<Submission>) {
        let (submissions, receiver) = mpsc::unbounded_channel();
        let engine = Self {
            worker,
            receiver,
            shared: Arc::new(Shared::new(load)),
            meter: Meter::default(),
            counted: Instant::now(),
            reported: None,
        };
        (engine, submissions)
    }

    fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let message = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_message(&*panic),
        };
        self.fail(message);
    }

    fn serve(&mut self) -> Result<(), BackendError> {
        while self.receive() {
            if self.worker.under_way() == 0 {
                self.counted = Instant::now();
            }
            let batch = self.worker.schedule();
            self.publish_occupancy(0);
            // What may stay under way while the next step is decided: the one asked for now.
            let mut may_stay = 0;
            if let Some(batch) = batch {
                self.worker.prepare(&batch)?;
                self.worker.forward(batch)?;
                may_stay = usize::from(self.worker.runs_ahead());
            }
            while self.worker.under_way() > may_stay {
                self.process()?;
            }
        }
        Ok(())
    }

    fn process(&mut self) -> Result<(), BackendError> {
        let (counts, device_time) = self.worker.process()?;
        let now = Instant::now();
        self.meter.add(counts, now - self.counted, device_time);
        self.counted = now;
        self.publish_events();
        self.publish_load(now);
        Ok(())
    }

    /// Takes in what has come and drops what was cancelled; waits while there is nothing to do. False when
    /// there will never be anything more.
    fn receive(&mut self) -> bool {
        loop {
            let mut received = 0;
            while let Ok(submission) = self.receiver.try_recv() {
                self.worker.receive(submission);
                received += 1;
            }
            self.worker.forget_cancelled();
            let empty = self.worker.occupancy() == (0, 0);
            if empty {
                // Before the occupancy, so that who has awaited idleness sees them.
                self.publish_events();
                self.shared
                    .load
                    .send_replace(self.meter.complete(self.worker.load()));
            }
            self.publish_occupancy(received);
            // A step of requests that are gone is waited for as any other.
            if !empty || self.worker.under_way() > 0 {
                return true;
            }
            let Some(submission) = self.receiver.blocking_recv() else {
                return false;
            };
            self.worker.receive(submission);
            self.publish_occupancy(1);
        }
    }

    fn publish_occupancy(&self, received: usize) {
        let (waiting, running) = self.worker.occupancy();
        self.shared.occupancy.send_if_modified(|occupancy| {
            let queued = occupancy.queued - received;
            let now = Occupancy {
                queued,
                waiting,
                running,
                draining: occupancy.draining,
            };
            let changed = now != *occupancy;
            *occupancy = now;
            changed
        });
    }

    fn publish_load(&mut self, now: Instant) {
        if self
            .reported
            .is_none_or(|last| now.duration_since(last) >= REPORT_INTERVAL)
        {
            self.reported = Some(now);
            self.shared
                .load
                .send_replace(self.meter.complete(self.worker.load()));
        }
    }

    fn publish_events(&mut self) {
        for event in self.worker.take_events() {
            // Without a receiver nobody wants to know.
            let _ = self.shared.kv_events.send(event);
        }
    }

    /// Ends every request, also those that arrive while it does so, and says why from now on.
    fn fail(mut self, message: String) {
        tracing::error!(%message, "the engine failed");
        self.shared.failure.send_replace(Some(message.clone()));
        let error = EngineError::Fatal(message);
        self.worker.fail(&error);
        self.receiver.close();
        while let Some(Submission { request: _, events }) = self.receiver.blocking_recv() {
            let _ = events.send(Event::Failed(error.clone()));
        }
        self.shared.occupancy.send_modify(|occupancy| {
            *occupancy = Occupancy {
                draining: occupancy.draining,
                ..Occupancy::default()
            };
        });
        self.shared.load.send_modify(|load| {
            (
                load.waiting_requests,
                load.running_requests,
                load.queued_prefill_tokens,
            ) = (0, 0, 0);
        });
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
