//! Fork-join threads.
//!
//! A step launches some two hundred operations of a few microseconds each, so a launch must cost far less
//! than waking a thread does: workers spin for a short while after each job before they sleep. A pool
//! without jobs sleeps, and costs nothing.
#![allow(unsafe_code)]

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a worker without work spins before it sleeps: longer than the pauses within a step (sampling,
/// the scheduler), too short to show on an idle machine.
const SPIN: Duration = Duration::from_micros(100);

/// Threads that run the tasks of one job at a time, with the caller among them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs.
    busy: Mutex<()>,
}

impl ThreadPool {
    /// A pool of `threads` threads, the caller's included.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads)
            .filter_map(|index| {
                let shared = Arc::clone(&shared);
                let builder = thread::Builder::new().name(format!("ferrum-cpu-{index}"));
                // Without the thread (a process limit) the caller does more of the work itself.
                builder.spawn(move || shared.work()).ok()
            })
            .collect();
        Self {
            shared,
            workers,
            busy: Mutex::new(()),
        }
    }

    /// Threads that share a job, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once for each index below `tasks`, on all threads, and returns when all calls have.
    ///
    /// Tasks are handed out in order, one at a time, so that uneven ones balance. A call from within a task,
    /// or while another thread's job runs, does its tasks on the calling thread.
    ///
    /// # Panics
    /// If a task does, after the others have finished.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let guard = if tasks > 1 && !self.workers.is_empty() {
            self.try_busy()
        } else {
            None
        };
        let Some(_busy) = guard else {
            (0..tasks).for_each(task);
            return;
        };
        let tasks = u32::try_from(tasks).expect("fewer than 2^32 tasks");
        self.shared.run_job(tasks, &task);
    }

    /// Calls `task` with each `chunk_len` consecutive elements of `data` (the last may be shorter).
    ///
    /// # Panics
    /// As [`Self::run`], and if `chunk_len` is 0.
    pub fn run_chunks<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let len = data.len();
        let start = SyncPtr(data.as_mut_ptr());
        self.run(len.div_ceil(chunk_len), |index| {
            let from = index * chunk_len;
            let chunk_len = chunk_len.min(len - from);
            // SAFETY: the chunks of different indices are disjoint parts of `data`, which is borrowed
            // mutably until `run` returns, and each index is handed out once.
            let chunk = unsafe { std::slice::from_raw_parts_mut(start.get().add(from), chunk_len) };
            task(index, chunk);
        });
    }

    fn try_busy(&self) -> Option<MutexGuard<'_, ()>> {
        match self.busy.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so that joining cannot fail.
            let _ = worker.join();
        }
    }
}

/// A pointer that tasks on several threads write disjoint parts through.
pub(crate) struct SyncPtr<T>(pub(crate) *mut T);

impl<T> SyncPtr<T> {
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: only an address; whoever dereferences it answers for the access.
unsafe impl<T> Send for SyncPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SyncPtr<T> {}

/// What caller and workers share.
#[derive(Default)]
struct Shared {
    /// Tasks of the current job (high half) and how many were handed out (low half). A thread that
    /// increments the low half has claimed a task; until it has finished, the job cannot end, so that what
    /// `task` and `call` point to stays alive.
    tickets: AtomicU64,
    /// Tasks not finished yet.
    pending: AtomicUsize,
    /// The current job's closure, and the function that calls it.
    task: AtomicPtr<()>,
    call: AtomicPtr<()>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    awake: Condvar,
}

impl Shared {
    fn run_job<F: Fn(usize) + Sync>(&self, tasks: u32, task: &F) {
        self.task
            .store(std::ptr::from_ref(task).cast_mut().cast(), Ordering::Relaxed);
        self.call.store(call::<F> as *mut (), Ordering::Relaxed);
        self.pending.store(tasks as usize, Ordering::Relaxed);
        self.tickets.store(u64::from(tasks) << 32, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
        while let Some(index) = self.claim() {
            self.finish_task(index);
        }
        let mut spins = 0_u32;
        while self.pending.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < 1 << 12 {
                std::hint::spin_loop();
            } else {
                // The worker may be waiting for this very core.
                thread::yield_now();
            }
        }
        let panic = lock(&self.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn work(&self) {
        let mut idle_since = None;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(index) = self.claim() {
                self.finish_task(index);
                idle_since = None;
                continue;
            }
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            if idle_since.get_or_insert_with(Instant::now).elapsed() > SPIN {
                self.sleep();
                idle_since = None;
            }
        }
    }

    fn claim(&self) -> Option<usize> {
        let mut tickets = self.tickets.load(Ordering::Relaxed);
        loop {
            if tickets as u32 >= (tickets >> 32) as u32 {
                return None;
            }
            match self.tickets.compare_exchange_weak(
                tickets,
                tickets + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(tickets as u32 as usize),
                Err(now) => tickets = now,
            }
        }
    }

    /// Runs a claimed task.
    fn finish_task(&self, index: usize) {
        let task = self.task.load(Ordering::Relaxed);
        let call = self.call.load(Ordering::Relaxed);
        // SAFETY: `call` was stored from a function of this type, before the ticket that this thread holds
        // was published (release in `run_job`, acquire in `claim`).
        let call: fn(*mut (), usize) = unsafe { std::mem::transmute(call) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(task, index))) {
            *lock(&self.panic) = Some(panic);
        }
        self.pending.fetch_sub(1, Ordering::Release);
    }

    fn sleep(&self) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Checked after `sleepers` was raised: a job published since then sees it and wakes this thread,
        // which needs the lock and so happens after `wait` has released it.
        while !self.stop.load(Ordering::SeqCst) && !self.has_tickets() {
            guard = self.awake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn has_tickets(&self) -> bool {
        let tickets = self.tickets.load(Ordering::SeqCst);
        (tickets as u32) < (tickets >> 32) as u32
    }

    fn wake_all(&self) {
        let _guard = lock(&self.sleep);
        self.awake.notify_all();
    }
}

fn call<F: Fn(usize) + Sync>(task: *mut (), index: usize) {
    // SAFETY: `task` points to the `F` that `run_job` was called with; it cannot return before this task has
    // finished.
    let task = unsafe { &*task.cast::<F>() };
    task(index);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::ThreadPool;

    #[test]
    fn every_task_runs_once_a_job() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads);
            for tasks in [0, 1, 2, 3, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(tasks, |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_for_a_job() {
        let pool = ThreadPool::new(3);
        for _ in 0..5 {
            while pool.shared.sleepers.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            let ran = AtomicUsize::new(0);
            pool.run(64, |_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.into_inner(), 64);
        }
    }

    #[test]
    fn callers_on_several_threads_and_within_tasks_all_finish() {
        let pool = Arc::new(ThreadPool::new(2));
        let total = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (pool, total) = (Arc::clone(&pool), Arc::clone(&total));
                thread::spawn(move || {
                    for _ in 0..100 {
                        pool.run(4, |_| {
                            pool.run(3, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().expect("no panic in a caller");
        }
        assert_eq!(total.load(Ordering::Relaxed), 4 * 100 * 4 * 3);
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = ThreadPool::new(2);
        let mut data = vec![0_usize; 103];
        pool.run_chunks(&mut data, 10, |index, chunk| {
            assert_eq!(chunk.len(), if index == 10 { 3 } else { 10 });
            chunk.fill(index + 1);
        });
        assert!(data.iter().enumerate().all(|(at, &index)| index == at / 10 + 1));
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, |i| assert_ne!(i, 5, "task five"));
        }));
        assert!(result.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(8, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 8);
    }
}
