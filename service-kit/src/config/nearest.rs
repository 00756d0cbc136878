//! Which known key a mistyped one was meant to be.

/// The known path that `wrong` most likely stands for: the same key in another section, or the one
/// with the fewest typing slips, if they are few.
pub(super) fn nearest(wrong: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    // Two slips make any word of four letters into any other.
    let slips_allowed = match last_part(wrong).len() {
        0..5 => 1,
        length => (length / 3).max(2),
    };
    known
        .into_iter()
        .filter_map(|path| {
            let moved = last_part(&path) == last_part(wrong);
            let slips = slips(wrong, &path);
            (moved || slips <= slips_allowed).then_some((slips, path))
        })
        .min()
        .map(|(_, path)| path)
}

fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `from` into `to` (optimal
/// string alignment).
fn slips(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut last_from = None;
    for (row, wanted) in from.chars().enumerate() {
        let mut current = vec![row + 1];
        let mut last_to = None;
        for (column, &found) in to.iter().enumerate() {
            let at = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&last, column) + usize::from(wanted != found);
            let mut best = replaced
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            if last_from == Some(found) && last_to == Some(wanted) && column > 0 {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
            last_to = Some(found);
        }
        before_last = std::mem::replace(&mut last, current);
        last_from = Some(wanted);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_slips() {
        for (from, to, expected) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("ping", "pings", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(slips(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn finds_the_likely_key_and_no_far_one() {
        let known = || ["gateway.ping_interval", "gateway.listen", "gateway"].map(str::to_owned);
        assert_eq!(
            nearest("gateway.pnig_interval", known()).as_deref(),
            Some("gateway.ping_interval")
        );
        assert_eq!(
            nearest("server.ping_interval", known()).as_deref(),
            Some("gateway.ping_interval")
        );
        assert_eq!(nearest("gatway", known()).as_deref(), Some("gateway"));
        assert_eq!(nearest("gateway.colour", known()), None);
        assert_eq!(
            nearest("bus", ["tls", "buss"].map(str::to_owned)).as_deref(),
            Some("buss")
        );
        assert_eq!(nearest("bus", ["tls".to_owned()]), None);
    }
}
