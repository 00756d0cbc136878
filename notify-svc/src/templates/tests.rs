use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::engine::*;
use super::*;

fn template(body: &str) -> Template {
    Template {
        name: "test".into(),
        language: String::new(),
        title: "Title".into(),
        body: body.into(),
        html: None,
        subject: None,
        short: None,
        link: None,
        required: Vec::new(),
    }
}

fn in_language(language: &str) -> Template {
    Template {
        language: language.into(),
        ..template("")
    }
}

fn body(text: &str, variables: Json) -> Result<String, RenderError> {
    render(&template(text), &variables).map(|rendered| rendered.body)
}

fn html(text: &str, variables: Json) -> Result<String, RenderError> {
    let template = Template {
        html: Some(text.into()),
        ..template("")
    };
    render(&template, &variables).map(|rendered| rendered.html.unwrap())
}

fn link(text: &str, variables: Json) -> Result<Option<String>, RenderError> {
    let template = Template {
        link: Some(text.into()),
        ..template("")
    };
    render(&template, &variables).map(|rendered| rendered.link)
}

fn missing<T>(name: &str) -> Result<T, RenderError> {
    Err(RenderError::Missing { name: name.into() })
}

#[test]
fn json_refuses_what_it_does_not_know() {
    let least = json!({"name": "a", "title": "t", "body": "b"});
    let read: Template = serde_json::from_value(least).unwrap();
    assert_eq!(read.language, "");
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        json!({"name": "a", "language": "", "title": "t", "body": "b"})
    );
    let whole = json!({
        "name": "a", "language": "pt-BR", "title": "t", "body": "b", "html": "h", "subject": "s",
        "short": "o", "link": "l", "required": ["x"],
    });
    let read: Template = serde_json::from_value(whole.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), whole);
    let typo = json!({"name": "a", "title": "t", "body": "b", "titel": "t"});
    assert!(serde_json::from_value::<Template>(typo).is_err());
}

#[test]
fn names_languages_and_required_variables_have_a_form() {
    for name in ["a", "order.shipped_2-x", &"a".repeat(64)] {
        let named = Template {
            name: name.into(),
            ..template("")
        };
        assert_eq!(named.check(), Ok(()), "{name}");
    }
    for name in ["", "A", "a b", "a/b", "ä", "a\n", &"a".repeat(65)] {
        let named = Template {
            name: name.into(),
            ..template("")
        };
        assert_eq!(named.check(), Err(CheckError::Name), "{name}");
    }
    for language in ["", "en", "pt-BR", "zh-Hant-TW", "de-1996", "sl-rozaj-biske"] {
        assert_eq!(in_language(language).check(), Ok(()), "{language}");
    }
    for language in [
        "e",
        "e1",
        "en_US",
        "en-",
        "-en",
        "en--US",
        "en-abcdefghi",
        "en US",
        "é",
        "en-abcdefgh-abcdefgh-abcdefgh-abcdefgh",
    ] {
        assert_eq!(
            in_language(language).check(),
            Err(CheckError::Language),
            "{language}"
        );
    }
    let requiring = |required: Vec<String>| Template {
        required,
        ..template("")
    };
    assert_eq!(requiring(vec!["_a1".into(); 64]).check(), Ok(()));
    assert_eq!(
        requiring(vec!["a".into(); 65]).check(),
        Err(CheckError::ManyRequired)
    );
    for name in ["", "1a", "a.b", "a-b", "ä"] {
        assert_eq!(
            requiring(vec![name.into()]).check(),
            Err(CheckError::Required(name.into()))
        );
    }
}

#[test]
fn templates_have_a_largest_size() {
    let largest = "x".repeat(64 * 1024);
    assert_eq!(template(&largest).check(), Ok(()));
    assert_eq!(
        template(&format!("{largest}x")).check(),
        Err(CheckError::PartTooLarge { part: Part::Body })
    );
    let whole = |title: &str| Template {
        title: title.into(),
        html: Some(largest.clone()),
        ..template(&largest)
    };
    assert_eq!(whole("").check(), Ok(()));
    assert_eq!(whole("x").check(), Err(CheckError::TooLarge));
}

#[test]
fn a_bad_part_is_refused_with_its_line() {
    for (text, line, word) in [
        ("one\n{{ two", 2, "end of input"),
        ("{% if x %}", 1, "end of input"),
        ("\n\n{% endfor %}", 3, "endfor"),
        ("{{ x|nosuch }}", 1, "no filter nosuch"),
        ("\n{% if false %}{{ x|safe }}{% endif %}", 2, "no filter safe"),
        ("{{ x|e }}", 1, "no filter e"),
        ("{{ 1 if x is nosuch }}", 1, "no test nosuch"),
        ("\n{{ open('/etc/passwd') }}", 2, "no function open"),
        ("{{ debug() }}", 1, "no function debug"),
        // What is not compiled in.
        ("{% include 'other' %}", 1, "include"),
        ("{% import 'other' as o %}", 1, "import"),
        ("{% from 'other' import o %}", 1, "from"),
        ("{% extends 'other' %}", 1, "extends"),
        ("{% block b %}{% endblock %}", 1, "block"),
        (
            "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
            1,
            "macro",
        ),
    ] {
        let found = template(text).check();
        let Err(CheckError::Part {
            part: Part::Body,
            line: found_line,
            reason,
        }) = &found
        else {
            panic!("{text}: {found:?}")
        };
        assert_eq!(*found_line, line, "{text}");
        assert!(reason.contains(word), "{text}: {reason}");
        // Unchecked, it is an error and no panic when it is rendered.
        if !text.contains("false") {
            assert!(body(text, json!({"x": 1})).is_err(), "{text}");
        }
    }
    let bad = "{{";
    for (part, whole) in [
        (
            Part::Title,
            Template {
                title: bad.into(),
                ..template("")
            },
        ),
        (
            Part::Html,
            Template {
                html: Some(bad.into()),
                ..template("")
            },
        ),
        (
            Part::Subject,
            Template {
                subject: Some(bad.into()),
                ..template("")
            },
        ),
        (
            Part::Short,
            Template {
                short: Some(bad.into()),
                ..template("")
            },
        ),
        (
            Part::Link,
            Template {
                link: Some(bad.into()),
                ..template("")
            },
        ),
    ] {
        let error = whole.check().unwrap_err();
        assert!(error.to_string().starts_with(part.name()), "{error}");
    }
}

#[test]
fn expressions_that_cannot_be_parsed_without_end_are_refused() {
    for deep in [
        format!(
            "{}1{}",
            "{{ ".to_owned() + &"(".repeat(30_000),
            ")".repeat(30_000) + " }}"
        ),
        format!("{{{{ {}1 }}}}", "not ".repeat(15_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
        format!("{{{{ {} }}}}", "[".repeat(60_000)),
        "{% if 1 %}".repeat(6_000),
        "{% for x in [1] %}".repeat(3_000),
        format!("{{{{ x{} }}}}", ".y".repeat(30_000)),
        format!("{{{{ x{} }}}}", "|trim".repeat(12_000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(30_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(5_000)),
        format!("{{{{ x{} }}}}", "[0]".repeat(20_000)),
        format!("{{{{ x{} }}}}", "()".repeat(30_000)),
        format!("{{% set x{} = 1 %}}", ".y".repeat(30_000)),
        format!("{{% filter trim{} %}}{{% endfilter %}}", "|trim".repeat(12_000)),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(5_000)),
        format!("{{% if 1 %}}{}{{% endif %}}", "{%- elif 1 %}".repeat(5_000)),
        "{% set x = [x] %}".repeat(3_800),
        format!("{{% set x {} = 1 %}}", ", (x ".repeat(10_000)),
    ] {
        // Not every one is an error, but none overflows the stack, which would end the process.
        let whole = template(&deep);
        let checked = whole.check();
        let rendered = render(&whole, &json!({"x": "x"}));
        assert!(checked.is_ok() || rendered.is_err(), "{checked:?}");
    }
}

#[test]
fn values_cannot_be_put_into_values() {
    // Fuel does not count what comparing, converting and dropping them takes.
    for text in [
        "{% set x = [x] %}",
        "{% set x = (x, x) %}",
        "{% set x = {'a': x} %}",
        "{% for y in [x, x] %}{% endfor %}",
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% set ns = namespace(x=1) %}",
        "{% set x = dict(a=x) %}",
        "{{ x|batch(1) }}",
        "{{ x|zip(x) }}",
    ] {
        let found = template(text).check();
        assert!(matches!(found, Err(CheckError::Part { .. })), "{text}: {found:?}");
        assert!(body(text, json!({"x": 1})).is_err(), "{text}");
    }
    // Constants are harmless, and so is leaving out.
    let found = body(
        "{% for x in [1, 2, 3] if x in [1, 3] %}{{ x }}{% endfor %}{% if 'a' in ('a', 'b') %}.{% endif %}",
        json!({}),
    );
    assert_eq!(found.unwrap(), "13.");
    assert!(template(&"{% set x = 1 %}".repeat(64)).check().is_ok());
    assert!(template(&"{% set x = 1 %}".repeat(65)).check().is_err());
}

#[test]
fn parts_default_to_each_other() {
    let rendered = render(
        &Template {
            title: "Hello {{ name }}".into(),
            ..template("{{ name }}: {{ n + 1 }} {{ is }}{{ nothing }}.\n")
        },
        &json!({"name": "<Ann> & \"Bo\"", "n": 2, "is": true, "nothing": null}),
    )
    .unwrap();
    assert_eq!(
        rendered,
        Rendered {
            title: "Hello <Ann> & \"Bo\"".into(),
            body: "<Ann> & \"Bo\": 3 True.".into(),
            html: None,
            subject: "Hello <Ann> & \"Bo\"".into(),
            short: "<Ann> & \"Bo\": 3 True.".into(),
            link: None,
        }
    );
    let rendered = render(
        &Template {
            html: Some("<b>{{ name }}</b>".into()),
            subject: Some("S {{ name }}".into()),
            short: Some("O {{ name }}".into()),
            link: Some("https://example.org/{{ name }}".into()),
            ..template("")
        },
        &json!({"name": "x"}),
    )
    .unwrap();
    assert_eq!(rendered.html.as_deref(), Some("<b>x</b>"));
    assert_eq!(rendered.subject, "S x");
    assert_eq!(rendered.short, "O x");
    assert_eq!(rendered.link.as_deref(), Some("https://example.org/x"));
}

#[test]
fn a_missing_variable_is_named() {
    assert_eq!(body("{{ sender }}", json!({})), missing("sender"));
    assert_eq!(body("{{ user.name }}", json!({"user": {}})), missing("user.name"));
    assert_eq!(body("{{ user.name }}", json!({})), missing("user"));
    assert_eq!(body("{{ text|upper }}", json!({})), missing("text"));
    assert_eq!(
        body("{% for x in items %}{% endfor %}", json!({})),
        missing("items")
    );
    assert_eq!(body("{% if admin %}{% endif %}", json!({})), missing("admin"));
    assert_eq!(body("{{ a ~ b }}", json!({"a": 1})), missing("b"));
    assert_eq!(body("{{ items[3] }}", json!({"items": []})), missing("items[3]"));
    assert_eq!(html("{{ sender }}", json!({})), missing("sender"));
    assert_eq!(link("https://{{ host }}", json!({})), missing("host"));
    // Who asks first may do without.
    assert_eq!(body("{{ x|default('-') }}", json!({})).unwrap(), "-");
    assert_eq!(
        body("{% if x is defined %}{{ x }}{% endif %}.", json!({})).unwrap(),
        "."
    );
}

#[test]
fn what_is_required_is_missing_although_no_part_uses_it() {
    let requiring = Template {
        required: vec!["a".into(), "b".into()],
        ..template("")
    };
    assert!(render(&requiring, &json!({"a": 0, "b": ""})).is_ok());
    assert_eq!(render(&requiring, &json!({"a": 1})).map(|_| ()), missing("b"));
    assert_eq!(
        render(&requiring, &json!({"a": null, "b": 1})).map(|_| ()),
        missing("a")
    );
    for variables in [json!([]), json!("x"), json!(null)] {
        assert_eq!(render(&requiring, &variables), Err(RenderError::Variables));
    }
}

#[test]
fn errors_have_the_line_and_not_what_variables_contain() {
    let found = body("\n\n{{ secret + 1 }}", json!({"secret": "hunter2"}));
    let Err(RenderError::Part {
        part: Part::Body,
        line: 3,
        reason,
    }) = &found
    else {
        panic!("{found:?}")
    };
    assert!(!reason.contains("hunter2"), "{reason}");
    let found = body("{{ secret|int }}", json!({"secret": "hunter2"})).unwrap_err();
    assert!(!found.to_string().contains("hunter2"), "{found}");
}

const HOSTILE: &str = "<script>alert('x')</script>\" onload=\"x&amp;";
const HARMLESS: &str = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;&#x2f;script&gt;&quot; onload=&quot;x&amp;amp;";

#[test]
fn html_escapes_every_value_it_prints() {
    let variables = json!({"x": HOSTILE, "items": [{"text": HOSTILE}]});
    for text in [
        "{{ x }}",
        "{{ items[0].text }}",
        "{% for item in items %}{{ item.text }}{% endfor %}",
        "{% set y = x %}{{ y }}",
        "{{ '' ~ x }}",
        "{{ x|trim }}",
        "{{ items[0].text|cut(1000) }}",
        "{{ x|cut(1000) }}",
        "{{ '%s'|format(x) }}",
        "{{ nope|default(x) }}",
        "{% autoescape false %}{{ x }}{% endautoescape %}",
        "{% autoescape 'none' %}{{ x }}{% endautoescape %}",
    ] {
        assert_eq!(html(text, variables.clone()).unwrap(), HARMLESS, "{text}");
        assert_eq!(body(text, variables.clone()).unwrap(), HOSTILE, "{text}");
    }
    // Twice rather than not at all.
    for text in [
        "{% set y %}{{ x }}{% endset %}{{ y }}",
        "{% autoescape false %}{% set y %}{{ x }}{% endset %}{{ y }}{% endautoescape %}",
        "{% filter trim %}{{ x }}{% endfilter %}",
        "{{ x|replace('a', '<')|indent }}",
        "{{ x|urlencode }}",
        "{{ x|split|join('<') }}",
        "{% set y %}<i>{% endset %}{{ y ~ x }}{{ y|replace('i', x) }}{{ y|join(x) }}",
    ] {
        let found = html(text, variables.clone()).unwrap();
        assert!(!found.contains(['<', '>', '"', '\'']), "{text}: {found}");
    }
    // The template's own markup stays.
    assert_eq!(html("<p>{{ 1 }}</p>", json!({})).unwrap(), "<p>1</p>");
}

#[test]
fn variables_are_no_templates() {
    let found = body("{{ x }}", json!({"x": "{{ 7 * 7 }}{% include 'y' %}"})).unwrap();
    assert_eq!(found, "{{ 7 * 7 }}{% include 'y' %}");
}

#[test]
fn lists_and_objects_are_not_printed() {
    for text in [
        "{{ x }}",
        "{{ [1] }}",
        "{{ {'a': 1} }}",
        "{{ range(3) }}",
        "{{ (1, 2) }}",
    ] {
        for found in [body(text, json!({"x": {"a": 1}})), html(text, json!({"x": [1]}))] {
            let Err(RenderError::Part { reason, .. }) = &found else {
                panic!("{text}: {found:?}")
            };
            assert!(reason.contains("cannot be printed"), "{text}: {reason}");
        }
    }
}

#[test]
fn headings_are_one_line() {
    let rendered = render(
        &Template {
            title: " {{ x }}\n".into(),
            subject: Some("Re: {{ x }}".into()),
            ..template("{{ x }}")
        },
        &json!({"x": "a\r\nBcc: b@example.org\u{2028}c\u{85}d\te\0"}),
    )
    .unwrap();
    assert_eq!(rendered.title, "a  Bcc: b@example.org c d e");
    assert_eq!(rendered.subject, "Re: a  Bcc: b@example.org c d e");
    assert!(rendered.body.contains("\r\n"));
}

#[test]
fn what_is_rendered_has_a_largest_size() {
    let of = |size: usize| json!({"x": "x".repeat(size)});
    let text = || Some("{{ x }}".to_owned());
    for (part, most, whole) in [
        (
            Part::Title,
            1024,
            Template {
                title: "{{ x }}".into(),
                ..template("")
            },
        ),
        (Part::Body, 65_536, template("{{ x }}")),
        (
            Part::Html,
            262_144,
            Template {
                html: text(),
                ..template("")
            },
        ),
        (
            Part::Subject,
            1024,
            Template {
                subject: text(),
                ..template("")
            },
        ),
        (
            Part::Short,
            2048,
            Template {
                short: text(),
                ..template("")
            },
        ),
    ] {
        assert!(render(&whole, &of(most)).is_ok(), "{part}");
        assert_eq!(
            render(&whole, &of(most + 1)),
            Err(RenderError::TooLarge { part, most })
        );
    }
    // Without a text of its own an SMS has the beginning of the body.
    let rendered = render(&template("{{ x }}"), &json!({"x": "ä".repeat(2000)})).unwrap();
    assert_eq!(rendered.body.len(), 4000);
    assert!(rendered.short.len() <= 2048 && rendered.short.len() > 2040);
    assert!(rendered.short.ends_with("ä…"));
}

#[test]
fn links_are_https_or_nothing() {
    for good in [
        "https://example.org",
        "HTTPS://example.org/a/b?c=d&e=%20#f",
        "https://[::1]:8443/",
        "  https://example.org/x\n",
    ] {
        assert_eq!(
            link("{{ x }}", json!({"x": good})).unwrap().as_deref(),
            Some(good.trim())
        );
    }
    assert_eq!(link("{{ x }}", json!({"x": " "})), Ok(None));
    for bad in [
        "http://example.org",
        "javascript:alert(1)",
        "javascript://https://example.org",
        "data:text/html,x",
        "//example.org",
        "example.org",
        "https:example.org",
        "https://",
        "https:///path",
        "https://?x",
        "https://example.org@evil.example",
        "https://user:password@example.org/",
        "https://example.org/a b",
        "https://example.org/\"x",
        "https://example.org/<x>",
        "https://example.org\\@evil.example",
        "https://example.org/\nx",
        "https://exämple.org/",
    ] {
        assert_eq!(
            link("{{ x }}", json!({"x": bad})),
            Err(RenderError::Link),
            "{bad}"
        );
    }
    // What a user wrote belongs in encoded.
    assert_eq!(
        link("https://example.org/?q={{ q|urlencode }}", json!({"q": "a b&c"}))
            .unwrap()
            .unwrap(),
        "https://example.org/?q=a%20b%26c"
    );
    let long = format!("https://example.org/{}", "x".repeat(2048));
    assert!(matches!(
        link("{{ x }}", json!({"x": long})),
        Err(RenderError::TooLarge { part: Part::Link, .. })
    ));
}

#[test]
fn hostile_templates_end_soon() {
    let sequential =
        |times: usize, step: &str, end: &str| format!("{{% set x = text %}}{}{end}", step.repeat(times));
    let nested = |times: usize, step: &str, inner: &str| {
        format!("{}{inner}{}", step.repeat(times), "{% endfor %}".repeat(times))
    };
    let hostile = [
        "{% for x in range(10**9) %}{% endfor %}".to_owned(),
        "{% for x in range(1000000000) %}x{% endfor %}".to_owned(),
        nested(8, "{% for x in range(1000) %}", ""),
        nested(8, "{% for x in range(1000) %}", "{{ text }}"),
        nested(40, "{% for text in [text ~ text] %}", "{{ text }}"),
        nested(40, "{% for text in [[text, text]] %}", "{{ text }}"),
        nested(40, "{% for text in [[text, text]] %}", "{{ text == text }}{{ text|string }}"),
        nested(40, "{% for text in [text|urlencode] %}", "{{ text }}"),
        nested(40, "{% for text in [text|replace('x', 'xxxxxxxxxx')] %}", "{{ text }}"),
        nested(40, "{% for text in [text|join('xxxxxxxxxx')] %}", "{{ text }}"),
        sequential(60, "{% set x = x ~ x %}", "{{ x }}"),
        sequential(60, "{% set x = x + x %}", "{{ x|length }}"),
        sequential(60, "{% set x = [x, x] %}", "{{ x|string }}"),
        sequential(60, "{% set x = [x, x] %}", "{{ x == [x, x] }}{{ x|join }}{{ x is eq x }}"),
        sequential(60, "{% set x = {'a': x, 'b': x} %}", "{{ x|string|length }}"),
        sequential(60, "{% set x = [x, x] %}", "{{ [x, x]|sort|length }}{{ [x, x]|unique|length }}"),
        sequential(60, "{% set x %}{{ x }}{{ x }}{% endset %}", "{{ x|length }}"),
        "{{ 'x' * 10**9 }}".to_owned(),
        "{{ ('x' * 1000000) * 1000000 }}".to_owned(),
        "{{ [1] * 10**9 }}".to_owned(),
        "{{ 10 ** 10 ** 10 }}".to_owned(),
        "{{ 'x'|indent(10**9) }}".to_owned(),
        "{{ 'x\nx'|indent(10**9) }}".to_owned(),
        "{{ '%1000000000d'|format(1) }}".to_owned(),
        "{{ range(100000)|list|length }}".repeat(100),
        "{{ range(100000)|batch(1)|list|length }}".repeat(100),
        "{{ [1]|batch(10**9, 'x')|list|length }}".to_owned(),
        "{{ [1]|slice(10**9, 'x')|list|length }}".to_owned(),
        "{{ text|list|sort|join(text)|length }}".repeat(1000),
        "{{ text|upper|lower|title|length }}".repeat(1500),
        "{{ text|cut(100000)|length }}".repeat(1500),
        "{{ 'x' in text }}{{ 'y' in text }}".repeat(1500),
        "{% set ns = namespace(x=text) %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
            .to_owned(),
        "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{{ text|map('upper')|list|length }}".repeat(1500),
        "{{ text[::-1][::-1]|length }}".repeat(1500),
    ];
    let text = "x".repeat(60_000);
    for hostile in hostile {
        let started = Instant::now();
        let whole = Template {
            html: Some(hostile.clone()),
            ..template(&hostile)
        };
        // Checking is bounded as well: it only reads.
        whole.check().ok();
        let in_body = body(&hostile, json!({"text": text}));
        let in_html = html(&hostile, json!({"text": text}));
        let took = started.elapsed();
        let begin = &hostile[..hostile.len().min(120)];
        assert!(took < Duration::from_secs(3), "{took:?}: {begin}");
        for found in [in_body, in_html] {
            let length = found.as_ref().map_or(0, String::len);
            assert!(length <= 256 * 1024, "{length}: {begin}");
        }
    }
}

#[test]
fn work_without_end_is_named() {
    assert_eq!(
        body(
            "{% for x in range(1000) %}{% for y in range(1000) %}{% endfor %}{% endfor %}",
            json!({})
        ),
        Err(RenderError::TooMuchWork { part: Part::Body })
    );
}

#[test]
fn the_best_language_is_chosen() {
    let templates = ["", "pt", "de", "pt-BR", "zh-Hant"].map(in_language);
    let chosen = |language| choose(&templates, language).map(|template| template.language.as_str());
    assert_eq!(chosen("pt-BR"), Some("pt-BR"));
    assert_eq!(chosen("PT-br"), Some("pt-BR"));
    assert_eq!(chosen("pt-PT"), Some("pt"));
    assert_eq!(chosen("DE"), Some("de"));
    assert_eq!(chosen("zh-hant-tw"), Some("zh-Hant"));
    assert_eq!(chosen("zh-Hans"), Some(""));
    assert_eq!(chosen("p"), Some(""));
    assert_eq!(chosen(""), Some(""));
    assert_eq!(chosen("-"), Some(""));
    let templates = [in_language("de")];
    assert_eq!(choose(&templates, "fr"), None);
    assert_eq!(choose(&templates, ""), None);
    assert_eq!(choose(&[], "de"), None);
}

fn built(name: &str, variables: Json) -> Rendered {
    render(&built_in(name).unwrap(), &variables).unwrap()
}

#[test]
fn built_in_templates_pass_their_own_check() {
    for name in ["message", "mention", "digest"] {
        let template = built_in(name).unwrap();
        assert_eq!(template.check(), Ok(()));
        assert_eq!(template.name, name);
        assert!(matches!(
            render(&template, &json!({})),
            Err(RenderError::Missing { .. })
        ));
    }
    assert_eq!(built_in("other"), None);
}

#[test]
fn a_message_says_who_where_and_what() {
    let found = built(
        "message",
        json!({"sender": "Ann", "channel": "ops", "text": "It\nburns"}),
    );
    assert_eq!(found.title, "Ann in ops");
    assert_eq!(found.body, "It\nburns");
    let found = built(
        "mention",
        json!({"sender": "Ann", "channel": "ops", "text": "@Bo"}),
    );
    assert_eq!(found.title, "Ann mentioned you in ops");
    let found = built("message", json!({"sender": "Ann"}));
    assert_eq!(found.title, "Ann");
    // Encrypted: we cannot read it.
    for opaque in [
        json!({"sender": "Ann"}),
        json!({"sender": "Ann", "text": null, "channel": null}),
        json!({"sender": "Ann", "text": ""}),
    ] {
        assert_eq!(built("message", opaque.clone()).body, "New message");
        assert_eq!(built("mention", opaque).body, "New message");
    }
}

#[test]
fn long_messages_are_cut_and_no_error() {
    let long = "ä".repeat(8_000);
    let variables = json!({"sender": long, "channel": long, "text": long});
    for name in ["message", "mention"] {
        let found = built(name, variables.clone());
        assert!(found.body.ends_with("ä…"));
        assert_eq!(found.body.chars().count(), 1000);
    }
    let items = vec![json!({"sender": long, "text": long}); 30];
    let found = built("digest", json!({"count": 30, "channel": long, "items": items}));
    assert!(found.body.len() < 16 * 1024);
}

#[test]
fn a_digest_lists_what_was_missed() {
    let found = built(
        "digest",
        json!({"count": 2, "items": [{"sender": "<Ann>", "text": "Hi"}, {"sender": "Bo"}]}),
    );
    assert_eq!(found.title, "2 new messages");
    assert_eq!(found.short, "2 new messages");
    assert_eq!(found.body, "<Ann>: Hi\nBo: New message\n");
    assert_eq!(
        found.html.unwrap(),
        "<ul><li><strong>&lt;Ann&gt;</strong>: Hi</li><li><strong>Bo</strong>: New message</li></ul>"
    );
    let found = built(
        "digest",
        json!({"count": 1, "channel": "ops", "items": [{"sender": "Bo"}]}),
    );
    assert_eq!(found.title, "1 new message in ops");
    let items: Vec<_> = (0..25)
        .map(|n| json!({"sender": format!("u{n}"), "text": "x"}))
        .collect();
    let found = built("digest", json!({"count": 25, "items": items}));
    assert_eq!(found.body.lines().count(), 21);
    assert!(found.body.ends_with("u19: x\nand 5 more\n"));
    assert!(found.html.unwrap().ends_with("</ul><p>and 5 more</p>"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_refused_or_rendered_and_never_a_panic(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(&[
                    "{{", "}}", "{%", "%}", "{#", "#}", " x ", "|", "for ", " in ", "if ", "endif", "endfor",
                    "set ", "=", "(", ")", "[", "]", "'", "\"", "~", "*", "1", ".", ",", "cut", "upper", "is ",
                    "defined", "-", "loop", "range", "raw", "endraw", "\n", "\\", "ä", ":", "{", "}",
                ][..]).prop_map(str::to_owned),
                any::<char>().prop_map(String::from),
            ],
            0..24,
        ),
        x in any::<String>(),
    ) {
        let text = pieces.concat();
        let whole = Template { html: Some(text.clone()), link: Some(text.clone()), ..template(&text) };
        let checked = whole.check();
        let rendered = render(&whole, &json!({"x": x}));
        if let Err(CheckError::Part { reason, .. }) = checked {
            prop_assert!(reason.chars().count() <= 200);
        }
        if let Ok(rendered) = rendered {
            prop_assert!(rendered.short.len() <= 2048);
            prop_assert!(rendered.link.is_none_or(|link| link.starts_with("https://")));
        }
    }

    #[test]
    fn whatever_a_user_writes_opens_no_tag(x in any::<String>()) {
        let found = html("{{ x }}", json!({"x": x})).unwrap_or_default();
        prop_assert!(!found.contains(['<', '>', '"', '\'']));
    }

    #[test]
    fn cut_texts_are_beginnings(text in any::<String>(), most in 0..40_usize) {
        let found = cut(&text, most);
        prop_assert!(found.chars().count() <= most);
        prop_assert!(found == text || most == 0 || text.starts_with(found.strip_suffix('…').unwrap()));
        let found = cut_to_bytes(&text, most.max(3));
        prop_assert!(found.len() <= most.max(3));
    }
}
