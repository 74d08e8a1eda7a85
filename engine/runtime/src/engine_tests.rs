use std::sync::mpsc as permits;

use ferrum_engine::{EmbedRequest, ValidRequest, channel};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Has one request and two blocks, of which the request holds one. Asking for a step and finishing it wait for permits.
struct Slow {
    client: Option<mpsc::UnboundedSender<Event>>,
    under_way: usize,
    asks: permits::Sender<()>,
    ask: permits::Receiver<()>,
    finish: permits::Receiver<()>,
}

impl Worker for Slow {
    type Batch = ();

    fn receive(&mut self, submission: Submission) {
        self.client = Some(submission.events);
    }

    fn forget_cancelled(&mut self) {
        self.client.take_if(|client| client.is_closed());
    }

    fn schedule(&mut self) -> Option<()> {
        self.client.as_ref().map(|_| ())
    }

    fn prepare(&mut self, (): &()) -> Result<(), BackendError> {
        Ok(())
    }

    fn forward(&mut self, (): ()) -> Result<(), BackendError> {
        self.asks.send(()).expect("the test waits");
        self.ask.recv_timeout(PATIENCE).expect("a permit");
        self.under_way += 1;
        Ok(())
    }

    fn under_way(&self) -> usize {
        self.under_way
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn process(&mut self) -> Result<(StepCounts, Duration), BackendError> {
        self.finish.recv_timeout(PATIENCE).expect("a permit");
        self.under_way -= 1;
        Ok(Default::default())
    }

    fn occupancy(&self) -> (usize, usize) {
        (0, usize::from(self.client.is_some()))
    }

    fn load(&self) -> EngineLoad {
        EngineLoad {
            free_blocks: 2 - usize::from(self.client.is_some()),
            total_blocks: 2,
            ..EngineLoad::default()
        }
    }

    fn take_events(&mut self) -> Vec<KvEvent> {
        Vec::new()
    }

    fn fail(&mut self, _: &EngineError) {}
}

#[test]
fn who_has_awaited_idleness_sees_all_blocks_free_though_a_step_is_under_way() {
    let ((may_ask, ask), (may_finish, finish)) = (permits::channel(), permits::channel());
    let (asks, asked) = permits::channel();
    let worker = Slow {
        client: None,
        under_way: 0,
        asks,
        ask,
        finish,
    };
    let (engine, submissions) = Loop::new(worker, EngineLoad::default());
    let shared = Arc::clone(&engine.shared);
    let (events, stream) = channel();
    let request = ValidRequest::Embed(EmbedRequest {
        id: "test".to_owned(),
        ids: vec![1],
        dimensions: None,
    });
    shared.occupancy.send_modify(|occupancy| occupancy.queued = 1);
    submissions
        .send(Submission { request, events })
        .expect("the loop has not ended");
    let running = std::thread::spawn(move || engine.run());
    // The client leaves while the step is being asked for.
    asked.recv_timeout(PATIENCE).expect("a step");
    drop(stream);
    may_ask.send(()).expect("the loop runs");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut occupancy = shared.occupancy.subscribe();
        let idle = occupancy.wait_for(Occupancy::is_idle);
        tokio::time::timeout(PATIENCE, idle)
            .await
            .expect("it becomes idle")
            .expect("the loop runs");
    });
    let load = *shared.load.borrow();
    may_finish.send(()).expect("the loop runs");
    drop(submissions);
    running.join().expect("it ends");
    assert_eq!((load.free_blocks, load.total_blocks), (2, 2));
}
