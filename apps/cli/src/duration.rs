//! Times as people type them: `90s`, `10m`, `2h`, `30d`.

use std::time::Duration;

/// Longer ones are mistakes.
const MAX_SECONDS: u64 = 10 * 366 * 24 * 60 * 60;

/// Reads a number with a unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const HINT: &str = "write a number and a unit: 90s, 10m, 2h or 30d";
    let text = text.trim();
    let unit = text.chars().last().ok_or(HINT)?;
    let seconds_per_unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(HINT.to_owned()),
    };
    let count: u64 = text[..text.len() - 1]
        .parse()
        .map_err(|_| HINT.to_owned())?;
    let seconds = count.checked_mul(seconds_per_unit);
    match seconds {
        Some(0) => Err("must be longer than nothing".to_owned()),
        Some(seconds) if seconds <= MAX_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err("must be at most ten years".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse(" 2d "), Ok(Duration::from_secs(172_800)));
        for wrong in [
            "",
            "5",
            "m",
            "5y",
            "-1s",
            "0s",
            "1.5h",
            "99999999999d",
            "5µ",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
