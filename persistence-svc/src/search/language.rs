//! Languages whose words are reduced to stems, and what is done with their letters.

use rust_stemmers::Algorithm;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// A language of the Snowball project, or none: words are then found as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Language {
    Arabic,
    Danish,
    Dutch,
    English,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Tamil,
    Turkish,
}

/// By the name that stands in a configuration and in a question.
pub const LANGUAGES: [(&str, Language); 18] = [
    ("arabic", Language::Arabic),
    ("danish", Language::Danish),
    ("dutch", Language::Dutch),
    ("english", Language::English),
    ("finnish", Language::Finnish),
    ("french", Language::French),
    ("german", Language::German),
    ("greek", Language::Greek),
    ("hungarian", Language::Hungarian),
    ("italian", Language::Italian),
    ("norwegian", Language::Norwegian),
    ("portuguese", Language::Portuguese),
    ("romanian", Language::Romanian),
    ("russian", Language::Russian),
    ("spanish", Language::Spanish),
    ("swedish", Language::Swedish),
    ("tamil", Language::Tamil),
    ("turkish", Language::Turkish),
];

impl Language {
    /// The language of this name.
    pub fn named(name: &str) -> Option<Self> {
        LANGUAGES
            .iter()
            .find_map(|(known, language)| (*known == name).then_some(*language))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        LANGUAGES
            .iter()
            .find_map(|(name, language)| (*language == self).then_some(*name))
            .unwrap_or_default()
    }

    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::Arabic => Algorithm::Arabic,
            Self::Danish => Algorithm::Danish,
            Self::Dutch => Algorithm::Dutch,
            Self::English => Algorithm::English,
            Self::Finnish => Algorithm::Finnish,
            Self::French => Algorithm::French,
            Self::German => Algorithm::German,
            Self::Greek => Algorithm::Greek,
            Self::Hungarian => Algorithm::Hungarian,
            Self::Italian => Algorithm::Italian,
            Self::Norwegian => Algorithm::Norwegian,
            Self::Portuguese => Algorithm::Portuguese,
            Self::Romanian => Algorithm::Romanian,
            Self::Russian => Algorithm::Russian,
            Self::Spanish => Algorithm::Spanish,
            Self::Swedish => Algorithm::Swedish,
            Self::Tamil => Algorithm::Tamil,
            Self::Turkish => Algorithm::Turkish,
        }
    }

    /// Letters with a mark that are letters of their own, and not another letter's variant: an ö is no o to a Swede.
    pub(super) fn own_letters(self) -> &'static str {
        match self {
            Self::Danish | Self::Norwegian => "åæø",
            Self::Finnish | Self::Swedish => "åäö",
            Self::Spanish => "ñ",
            _ => "",
        }
    }
}

/// Without marks on letters, but for the letters in `own`, and with one spelling of letters that have two. What no
/// database's own tokenizer may see as the end of a word becomes a middle dot.
pub(super) fn fold(text: &str, own: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    if text.is_ascii() {
        text.chars().for_each(|letter| push(letter, own, &mut folded));
    } else {
        for letter in text.nfc() {
            if letter.is_ascii() || own.contains(letter) || letter == 'й' {
                push(letter, own, &mut folded);
                continue;
            }
            // Hangul is taken apart by this, too, and put together below.
            std::iter::once(letter)
                .nfd()
                .filter(|part| !is_accent(*part))
                .for_each(|part| push(part, own, &mut folded));
        }
        if !folded.is_ascii() {
            folded = folded.nfc().collect();
        }
    }
    let trimmed = folded.trim_matches(INNER);
    if trimmed.len() == folded.len() {
        folded
    } else {
        trimmed.to_owned()
    }
}

/// Stands for a sign inside a word, as in `3.14`.
const INNER: char = '·';

fn push(letter: char, own: &str, folded: &mut String) {
    if own.contains(letter) {
        folded.push(letter);
        return;
    }
    match letter {
        'ß' => folded.push_str("ss"),
        'æ' => folded.push_str("ae"),
        'œ' => folded.push_str("oe"),
        'ø' => folded.push('o'),
        'đ' | 'ð' => folded.push('d'),
        'ł' => folded.push('l'),
        'ı' => folded.push('i'),
        'þ' => folded.push_str("th"),
        'ς' => folded.push('σ'),
        // Arabic: a line that only makes words longer.
        '\u{640}' => {}
        letter if letter.is_ascii_alphanumeric() => folded.push(letter),
        letter if letter.is_ascii() || letter.is_whitespace() || letter.is_control() => folded.push(INNER),
        // For private use: here they mark what is no word.
        '\u{e000}'..='\u{f8ff}' | '\u{fe0e}' | '\u{fe0f}' => {}
        letter => folded.push(letter),
    }
}

/// Marks that may be left out in writing: of Latin, Greek and Cyrillic letters, the points of Hebrew, vowel signs of Arabic. In
/// other scripts a mark is as much as a letter.
fn is_accent(mark: char) -> bool {
    matches!(mark, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{64b}'..='\u{652}' | '\u{670}')
        && is_combining_mark(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accents_go_letters_stay() {
        for (text, folded) in [
            ("café", "cafe"),
            ("straße", "strasse"),
            ("łódź", "lodz"),
            ("ёлка", "елка"),
            ("йод", "йод"),
            ("σοφός", "σοφοσ"),
            ("한국어", "한국어"),
            ("が", "が"),
            ("हिन्दी", "हिन्दी"),
            ("مُحَمَّد", "محمد"),
            ("3.14", "3·14"),
            ("'tis'", "tis"),
            ("\u{e000}x", "x"),
        ] {
            assert_eq!(fold(text, ""), folded, "{text}");
        }
        assert_eq!(fold("öl för ñandú", "ö"), "öl·för·nandu");
    }

    #[test]
    fn names_are_found() {
        for (name, language) in LANGUAGES {
            assert_eq!(Language::named(name), Some(language));
            assert_eq!(language.name(), name);
        }
        assert_eq!(Language::named("klingon"), None);
    }
}
