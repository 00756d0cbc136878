//! Whether a message is what a question looks for, how well, and where. What a store finds is a candidate; this decides, on the message
//! as it is stored now.

use super::analyser::{Analysed, Word};
use super::query::{Item, Query};

/// The length that counts as usual, in words.
const USUAL: f64 = 30.0;

/// A message that is what a question looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The more the better; up to 1,000,000.
    pub score: u32,
    /// Which words of the message are those of the question: in order, each once.
    pub words: Vec<usize>,
}

impl Query {
    /// Whether this is looked for, and how well it fits: a message counts more the more often it has the words, as they were
    /// written and not only as stems, close to each other, and the shorter it is.
    pub fn matches(&self, text: &Analysed) -> Option<Match> {
        let mut words = Vec::new();
        let mut places = Vec::new();
        let (mut sum, mut clauses) = (0.0, 0_u32);
        for clause in &self.clauses {
            let mut found: Vec<usize> = Vec::new();
            let (mut count, mut exact) = (0_u32, false);
            for item in &clause.any {
                for start in 0..text.words.len() {
                    let Some(is_exact) = item.stands_at(text, start) else {
                        continue;
                    };
                    count += 1;
                    exact |= is_exact;
                    found.extend(start..start + item.words.len());
                }
            }
            match (clause.negated, count) {
                (true, 0) => continue,
                (true, _) | (false, 0) => return None,
                (false, _) => {}
            }
            let count = f64::from(count);
            let length = 0.25 + 0.75 * as_f64(text.words.len()) / USUAL;
            sum += count / (count + length) * if exact { 1.0 } else { 0.8 };
            clauses += 1;
            if let Some(first) = found.iter().min().and_then(|first| text.words.get(*first)) {
                places.push(first.position);
            }
            words.extend(found);
        }
        words.sort_unstable();
        words.dedup();
        // How close together they begin.
        let span = match (places.iter().min(), places.iter().max()) {
            (Some(first), Some(last)) => f64::from(last - first) + 1.0,
            _ => 1.0,
        };
        let clauses = f64::from(clauses.max(1));
        let score = 0.8 * sum / clauses + 0.2 * (clauses / span).min(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 1, times a million"
        )]
        let score = (score * 1e6) as u32;
        Some(Match { score, words })
    }
}

impl Item {
    /// `Some`: it stands there; and whether each word is as it was written in the question.
    fn stands_at(&self, text: &Analysed, start: usize) -> Option<bool> {
        let first = text.words.get(start)?;
        let mut exact = true;
        for (number, forms) in self.words.iter().enumerate() {
            let word = text.words.get(start + number)?;
            if usize::from(word.position) != usize::from(first.position) + number {
                return None;
            }
            let is_prefix = self.prefix && number + 1 == self.words.len();
            exact &= stands_for(word, forms, is_prefix)?;
        }
        Some(exact)
    }
}

fn stands_for(word: &Word, forms: &[String], is_prefix: bool) -> Option<bool> {
    if is_prefix {
        let begins = |form: &String| forms.iter().any(|start| form.starts_with(start.as_str()));
        return word.forms.iter().any(begins).then_some(true);
    }
    if word.forms.iter().any(|form| forms.contains(form)) {
        return Some(word.forms.first() == forms.first());
    }
    None
}

#[expect(clippy::cast_precision_loss, reason = "words are few")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::analyser::Analyser;
    use super::super::language::Language;
    use super::super::text::Fields;
    use super::*;

    fn found(query: &str, texts: &[&str]) -> Option<Match> {
        let analyser = Analyser::new(&[Language::English], Fields::default());
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Query::parse(query, &analyser, None)
            .unwrap()
            .matches(&analyser.texts(texts))
    }

    #[test]
    fn what_is_found() {
        let text = ["The quick brown foxes are running", "over there"];
        for query in [
            "fox",
            "run",
            "\"quick brown\"",
            "\"brown fox run\" OR quick",
            "qui*",
            "\"brown foxes\" -dog",
            "running over",
        ] {
            assert_eq!(
                found(query, &text).is_some(),
                query != "\"brown fox run\"",
                "{query}"
            );
        }
        for query in [
            "dog",
            "fox -quick",
            "\"quick fox\"",
            "\"running over\"",
            "row*",
            "fox -\"quick brown\"",
        ] {
            assert_eq!(found(query, &text), None, "{query}");
        }
        assert_eq!(found("\"brown foxes\" the", &text).unwrap().words, [0, 2, 3]);
    }

    #[test]
    fn better_ones_count_more() {
        let score = |query: &str, text: &str| found(query, &[text]).unwrap().score;
        let long = format!("fox {}", "and more ".repeat(60));
        assert!(score("fox", "fox") > score("fox", &long));
        assert!(score("fox", "a fox") > score("fox", "a foxes"));
        assert!(score("fox", "fox fox b") > score("fox", "fox a b"));
        assert!(score("fox den", "the fox den was empty") > score("fox den", "the fox was out of den"));
        assert!(score("fox", "fox fox fox") <= 1_000_000);
    }
}
