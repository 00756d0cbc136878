//! What is said where nobody stored a template, in English.

use super::Template;

const TEXT: &str = "{% if text is defined and text %}{{ text|cut(1000) }}{% else %}New message{% endif %}";

/// See [`super::built_in`].
pub(super) fn template(name: &str) -> Option<Template> {
    let plain = |title: &str, body: &str, required: &[&str]| Template {
        name: name.to_owned(),
        language: String::new(),
        title: title.to_owned(),
        body: body.to_owned(),
        html: None,
        subject: None,
        short: None,
        link: None,
        required: required.iter().map(|&name| name.to_owned()).collect(),
    };
    match name {
        "message" => Some(plain(
            "{{ sender|cut(100) }}{% if channel is defined and channel %} in {{ channel|cut(100) }}{% endif %}",
            TEXT,
            &["sender"],
        )),
        "mention" => Some(plain(
            "{{ sender|cut(100) }} mentioned you{% if channel is defined and channel %} in \
             {{ channel|cut(100) }}{% endif %}",
            TEXT,
            &["sender"],
        )),
        "digest" => Some(Template {
            html: Some(DIGEST_HTML.to_owned()),
            short: Some(DIGEST_TITLE.to_owned()),
            ..plain(DIGEST_TITLE, DIGEST_BODY, &["count", "items"])
        }),
        _ => None,
    }
}

const DIGEST_TITLE: &str = "{{ count }} new message{% if count != 1 %}s{% endif %}\
    {% if channel is defined and channel %} in {{ channel|cut(100) }}{% endif %}";

const DIGEST_BODY: &str = "\
{% for item in items[:20] %}\
{{ item.sender|cut(100) }}: {% if item.text is defined and item.text %}{{ item.text|cut(200) }}\
{% else %}New message{% endif %}{{ '\\n' }}\
{% endfor %}\
{% if count > 20 and items|length >= 20 %}and {{ count - 20 }} more{{ '\\n' }}{% endif %}";

const DIGEST_HTML: &str = "<ul>\
{% for item in items[:20] %}\
<li><strong>{{ item.sender|cut(100) }}</strong>: {% if item.text is defined and item.text %}\
{{ item.text|cut(200) }}{% else %}New message{% endif %}</li>\
{% endfor %}</ul>\
{% if count > 20 and items|length >= 20 %}<p>and {{ count - 20 }} more</p>{% endif %}";
