//! The part of a message that shows why it was found.

use std::ops::Range;

use super::analyser::Analysed;

/// Words of a snippet.
const WORDS: usize = 24;

/// Bytes of text in a snippet, at most, without marks and escapes.
const BYTES: usize = 400;

/// The stretch with the most of these words, which are places in [`Analysed::words`] in order. What was found stands between
/// `<mark>` and `</mark>`; everything else is escaped for HTML. `…` stands where text was left out.
pub fn snippet(text: &Analysed, found: &[usize]) -> String {
    let Some(stretch) = best(text, found) else {
        return String::new();
    };
    let words = text.words.get(stretch.clone()).unwrap_or_default();
    let (Some(first), Some(last)) = (words.first(), words.last()) else {
        return String::new();
    };
    let Some(source) = text.texts.get(first.text) else {
        return String::new();
    };
    let is_of_text = |place: usize| text.words.get(place).is_some_and(|word| word.text == first.text);
    let is_begin = stretch.start == 0 || !is_of_text(stretch.start - 1);
    let is_end = !is_of_text(stretch.end);
    // Signs around the first and the last word of a text belong to them, if they are few.
    let from = if is_begin && first.bytes.start < 32 {
        0
    } else {
        first.bytes.start
    };
    let to = match is_end && source.len() - last.bytes.end < 32 {
        true => source.len(),
        false => last.bytes.end,
    };
    let mut shown = String::with_capacity(to.saturating_sub(from) + 64);
    if !is_begin {
        shown.push('…');
    }
    let mut at = from;
    for (number, word) in words.iter().enumerate() {
        if found.binary_search(&(stretch.start + number)).is_err() {
            continue;
        }
        escape(source.get(at..word.bytes.start).unwrap_or_default(), &mut shown);
        shown.push_str("<mark>");
        escape(source.get(word.bytes.clone()).unwrap_or_default(), &mut shown);
        shown.push_str("</mark>");
        at = word.bytes.end;
    }
    escape(source.get(at..to).unwrap_or_default(), &mut shown);
    if !is_end {
        shown.push('…');
    }
    shown
}

/// Words of one text that follow each other, with as many found ones as there can be.
fn best(text: &Analysed, found: &[usize]) -> Option<Range<usize>> {
    let mut best: Option<(usize, Range<usize>)> = None;
    for (number, first) in found.iter().enumerate() {
        // A few words before it are shown, too.
        let mut start = *first;
        while start > 0 && *first - start < 4 && fits(text, start - 1, *first) {
            start -= 1;
        }
        let mut end = *first + 1;
        while end - start < WORDS && fits(text, start, end) {
            end += 1;
        }
        let inside = found
            .get(number..)?
            .iter()
            .take_while(|place| **place < end)
            .count();
        if best.as_ref().is_none_or(|(count, _)| inside > *count) {
            best = Some((inside, start..end));
        }
    }
    best.map(|(_, stretch)| stretch)
}

fn fits(text: &Analysed, from: usize, to: usize) -> bool {
    match (text.words.get(from), text.words.get(to)) {
        (Some(first), Some(last)) => {
            first.text == last.text && last.bytes.end.saturating_sub(first.bytes.start) <= BYTES
        }
        _ => false,
    }
}

fn escape(text: &str, into: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            letter => into.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::analyser::Analyser;
    use super::super::language::Language;
    use super::super::query::Query;
    use super::super::text::Fields;
    use super::*;

    fn shown(query: &str, texts: &[&str]) -> String {
        let analyser = Analyser::new(&[Language::English], Fields::default());
        let text = analyser.texts(texts.iter().map(|text| (*text).to_owned()).collect());
        let found = Query::parse(query, &analyser, None)
            .unwrap()
            .matches(&text)
            .unwrap();
        snippet(&text, &found.words)
    }

    #[test]
    fn what_was_found_is_marked_the_rest_is_text() {
        assert_eq!(
            shown("foxes", &["no", "A <b>fox</b> & more!"]),
            "A &lt;b&gt;<mark>fox</mark>&lt;/b&gt; &amp; more!"
        );
        assert_eq!(
            shown("\"été chaud\"", &["L'Été  chaud."]),
            "L&#39;<mark>Été</mark>  <mark>chaud</mark>."
        );
    }

    #[test]
    fn long_text_is_cut_around_it() {
        let text = format!("{}the needle is here {}", "hay ".repeat(100), "hay ".repeat(100));
        let found = shown("needle", &[&text]);
        assert!(
            found.starts_with("…hay hay hay the <mark>needle</mark> is here hay"),
            "{found}"
        );
        assert!(found.ends_with("hay…") && found.len() < 200, "{found}");
        let one = "x".repeat(5000);
        assert!(shown("\"x x\" OR xxx*", &[&one]).len() < 5100);
    }
}
