//! An engine without work. In a file of its own, as it looks at the threads of its process.
#![cfg(target_os = "linux")]

mod support;

use std::{fs, time::Duration};

use ferrum_engine::LaunchConfig;
use support::{
    checkpoints::{fixture, start_decoder},
    requests::{generate, run, wait},
};

/// Of the engine's thread and the CPU backend's: how many, times scheduled out, CPU time in ticks.
fn engine_threads() -> (u64, u64, u64) {
    let (mut threads, mut switches, mut ticks) = (0, 0, 0);
    for task in fs::read_dir("/proc/self/task").expect("Linux").flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let name = read("comm");
        if name.trim() != "engine" && !name.starts_with("ferrum-cpu") {
            continue;
        }
        let number = |text: &str| text.trim().parse::<u64>().expect("a number");
        threads += 1;
        let status = read("status");
        let counts = status
            .lines()
            .filter_map(|line| line.split_once("ctxt_switches:"));
        switches += counts.map(|(_, count)| number(count)).sum::<u64>();
        // Fields 14 and 15 of proc(5); the name, field 2, has no space.
        ticks += read("stat")
            .split_whitespace()
            .skip(13)
            .take(2)
            .map(number)
            .sum::<u64>();
    }
    (threads, switches, ticks)
}

#[test]
fn an_engine_without_work_does_not_run_at_all() {
    let engine = start_decoder(&fixture("tiny-llama"), &LaunchConfig::new("test"), 32);
    run(&*engine, generate([1], 3));
    wait(engine.idle());
    // They may still be on their way to sleep; after that nothing may change.
    let before = wait(async {
        let mut last = engine_threads();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = engine_threads();
            if now == last {
                return now;
            }
            last = now;
        }
    });
    assert_eq!(before.0, 2, "the engine's thread and one beside it");
    wait(async { tokio::time::sleep(Duration::from_millis(400)).await });
    assert_eq!(engine_threads(), before, "woken while there was nothing to do");
}
