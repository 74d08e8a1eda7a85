//! `strftime_now`: some templates put today's date into the prompt.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

/// Seconds since 1970, in UTC.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// `time` (seconds since 1970) in UTC, as `format` says in the manner of C. A directive that is not known stays.
pub(super) fn strftime(format: &str, time: u64) -> String {
    let date = Date::new(time / 86_400);
    let (hour, minute, second) = (time / 3600 % 24, time / 60 % 60, time % 60);
    let month = MONTHS[date.month - 1];
    let weekday = DAYS[(time / 86_400 % 7) as usize];
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('A') => text.push_str(weekday),
            Some('B') => text.push_str(month),
            Some('H') => text.push_str(&format!("{hour:02}")),
            Some('I') => text.push_str(&format!("{:02}", (hour + 11) % 12 + 1)),
            Some('M') => text.push_str(&format!("{minute:02}")),
            Some('S') => text.push_str(&format!("{second:02}")),
            Some('Y') => text.push_str(&date.year.to_string()),
            Some('a') => text.push_str(&weekday[..3]),
            Some('b') => text.push_str(&month[..3]),
            Some('d') => text.push_str(&format!("{:02}", date.day)),
            Some('j') => text.push_str(&format!("{:03}", date.day_of_year)),
            Some('m') => text.push_str(&format!("{:02}", date.month)),
            Some('p') => text.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('y') => text.push_str(&format!("{:02}", date.year % 100)),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

struct Date {
    year: u64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: u64,
    /// 1 to 366.
    day_of_year: u64,
}

impl Date {
    /// The date `days` after 1970-01-01, in the Gregorian calendar.
    fn new(mut days: u64) -> Self {
        let mut year = 1970;
        let leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        while days >= 365 + u64::from(leap(year)) {
            days -= 365 + u64::from(leap(year));
            year += 1;
        }
        let day_of_year = days + 1;
        let lengths = [
            31,
            28 + u64::from(leap(year)),
            31,
            30,
            31,
            30,
            31,
            31,
            30,
            31,
            30,
            31,
        ];
        let mut month = 0;
        while days >= lengths[month] {
            days -= lengths[month];
            month += 1;
        }
        Self {
            year,
            month: month + 1,
            day: days + 1,
            day_of_year,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @951786061`, a leap day in a year divisible by 400.
        let leap_day = strftime("%A %a %d %B %b %Y %y %j %H:%M:%S %m", 951_786_061);
        assert_eq!(leap_day, "Tuesday Tue 29 February Feb 2000 00 060 01:01:01 02");
        assert_eq!(
            strftime("%d %b %Y %I %p %% %q %", 1_735_689_599),
            "31 Dec 2024 11 PM % %q %"
        );
        assert_eq!(strftime("%A %F", 0), "Thursday %F");
    }
}
