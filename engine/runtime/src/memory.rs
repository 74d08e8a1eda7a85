//! How much memory this process may still take.

use std::fs;

/// Free bytes: of the machine, or of the control group if that has less. `None` where the system does not
/// say.
pub(crate) fn available_bytes() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo")
        .and_then(|text| field(&text, "MemAvailable:"))
        .map(|kib| kib * 1024);
    // A container sees its own group at the root: version 2, then version 1.
    let root = "/sys/fs/cgroup";
    let group = group_free(
        read(&format!("{root}/memory.max")),
        read(&format!("{root}/memory.current")),
        read(&format!("{root}/memory.stat")).and_then(|text| field(&text, "inactive_file")),
    )
    .or_else(|| {
        group_free(
            read(&format!("{root}/memory/memory.limit_in_bytes")),
            read(&format!("{root}/memory/memory.usage_in_bytes")),
            read(&format!("{root}/memory/memory.stat")).and_then(|text| field(&text, "total_inactive_file")),
        )
    });
    machine.into_iter().chain(group).min()
}

/// Bytes that a group may still take; pages of files that are not in use do not count as taken.
fn group_free(limit: Option<String>, usage: Option<String>, inactive_file: Option<u64>) -> Option<u64> {
    // "max" is no limit.
    let limit: u64 = limit?.trim().parse().ok()?;
    let usage: u64 = usage?.trim().parse().ok()?;
    Some(limit.saturating_sub(usage.saturating_sub(inactive_file.unwrap_or(0))))
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_limit_less_what_it_cannot_give_back() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(group_free(text("1000\n"), text("700\n"), Some(200)), Some(500));
        assert_eq!(group_free(text("1000"), text("1100"), None), Some(0));
        assert_eq!(group_free(text("max\n"), text("700\n"), Some(200)), None);
        assert_eq!(group_free(None, None, None), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "MemTotal: 9 kB\nMemAvailable:    7 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(7));
        assert_eq!(field(text, "Mem"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_says_how_much_is_free() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 0));
    }
}
