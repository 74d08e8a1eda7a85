//! An engine without work. In a file of its own, as it looks at the threads of its process.
#![cfg(target_os = "linux")]

mod support;

use std::{fs, time::Duration};

use support::{
    Mock,
    requests::{generate, run, wait},
};

/// Times that the engine's thread was scheduled out, and its CPU time in ticks.
fn engine_thread() -> (u64, u64) {
    for task in fs::read_dir("/proc/self/task").expect("Linux").flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() != "engine" {
            continue;
        }
        let number = |text: Option<&str>| {
            text.and_then(|text| text.trim().parse::<u64>().ok())
                .expect("a number")
        };
        let switches = read("status")
            .lines()
            .filter_map(|line| line.split_once("ctxt_switches:"))
            .map(|(_, count)| number(Some(count)))
            .sum();
        // Fields 14 and 15 of proc(5); the name, field 2, has no space.
        let stat = read("stat");
        let ticks = stat
            .split_whitespace()
            .skip(13)
            .take(2)
            .map(|field| number(Some(field)))
            .sum();
        return (switches, ticks);
    }
    panic!("no thread is called `engine`");
}

#[test]
fn an_engine_without_work_does_not_run_at_all() {
    let mock = Mock::free();
    run(&*mock.engine, generate([1], 3));
    wait(mock.engine.idle());
    // It may still be on its way to the channel; from the second look on nothing may change.
    let before = wait(async {
        let mut last = engine_thread();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = engine_thread();
            if now == last {
                return now;
            }
            last = now;
        }
    });
    wait(async { tokio::time::sleep(Duration::from_millis(400)).await });
    assert_eq!(
        engine_thread(),
        before,
        "it was woken while there was nothing to do"
    );
}
