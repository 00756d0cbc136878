//! The demo page: what a newcomer opens after `cargo run` to see two browser tabs talk.
//!
//! Pages are plain HTML, CSS and ES modules that are built into the binary, so that running needs no build step and no
//! folder beside the executable. The page uses the unmodified browser build of the `centrifuge` SDK (see
//! `vendor/README.md`) and nothing from other hosts.
//!
//! What must hold: a page never runs a script that is not a file of this crate (the content security policy forbids inline
//! script and style, and with trusted types even assigning markup), whatever a message contains; the test
//! `every_answer_carries_the_security_headers` holds the policy, and the browser test in `e2e` sends a hostile message.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// Only files of this crate run or style the page, it talks only to the server it came from, and nobody may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// One embedded file, and where it is served.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

macro_rules! asset {
    ($path:literal, $content_type:ident, $file:literal) => {
        Asset {
            path: $path,
            content_type: $content_type,
            body: include_bytes!(concat!("../", $file)),
        }
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

static ASSETS: [Asset; 9] = [
    asset!("/", HTML, "assets/index.html"),
    asset!("/assets/demo.css", CSS, "assets/demo.css"),
    asset!("/assets/demo.js", JAVASCRIPT, "assets/demo.js"),
    asset!("/assets/network.js", JAVASCRIPT, "assets/network.js"),
    asset!("/assets/view.js", JAVASCRIPT, "assets/view.js"),
    asset!("/assets/icon.svg", SVG, "assets/icon.svg"),
    asset!(
        "/assets/vendor/centrifuge.js",
        JAVASCRIPT,
        "vendor/centrifuge/centrifuge.js"
    ),
    asset!(
        "/assets/vendor/centrifuge.LICENSE",
        PLAIN_TEXT,
        "vendor/centrifuge/LICENSE"
    ),
    asset!(
        "/assets/vendor/events.LICENSE",
        PLAIN_TEXT,
        "vendor/centrifuge/LICENSE.events"
    ),
];

/// The demo page at `/` and its files under `/assets/`. It has no fallback, so it can be merged with other routers; the page
/// expects the client endpoint at `connection/websocket` beside it, on the same host and port.
pub fn router() -> Router {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        router.route(asset.path, get(move || async move { answer(asset) }))
    })
}

fn answer(asset: &'static Asset) -> impl IntoResponse {
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    (
        [
            fixed(header::CONTENT_TYPE, asset.content_type),
            fixed(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
            fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            fixed(header::REFERRER_POLICY, "no-referrer"),
            fixed(
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin",
            ),
            fixed(
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
            // The files change with the binary, and their names do not: ask again each time.
            fixed(header::CACHE_CONTROL, "no-cache"),
        ],
        asset.body,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::{Method, Request, Response, StatusCode};
    use tower::ServiceExt;

    /// As in `vendor/README.md`.
    const CENTRIFUGE_SHA256: &str = "2e9a24e8495900b030008edd8a8d3746a218a213044b5ed15635fbadac24d4b8";

    async fn request(method: Method, path: &str) -> Response<Body> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .expect("a request");
        router().oneshot(request).await.expect("a router never fails")
    }

    async fn body(response: Response<Body>) -> Vec<u8> {
        to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("a body of under 1 MiB")
            .to_vec()
    }

    fn text(asset_path: &str) -> &'static str {
        let asset = ASSETS
            .iter()
            .find(|asset| asset.path == asset_path)
            .expect("an asset at this path");
        str::from_utf8(asset.body).expect("a text")
    }

    #[tokio::test]
    async fn every_file_is_served_with_its_type() {
        for (path, content_type) in [
            ("/", "text/html; charset=utf-8"),
            ("/assets/demo.css", "text/css; charset=utf-8"),
            ("/assets/demo.js", "text/javascript; charset=utf-8"),
            ("/assets/network.js", "text/javascript; charset=utf-8"),
            ("/assets/view.js", "text/javascript; charset=utf-8"),
            ("/assets/icon.svg", "image/svg+xml"),
            ("/assets/vendor/centrifuge.js", "text/javascript; charset=utf-8"),
            ("/assets/vendor/centrifuge.LICENSE", "text/plain; charset=utf-8"),
            ("/assets/vendor/events.LICENSE", "text/plain; charset=utf-8"),
        ] {
            let response = request(Method::GET, path).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], content_type, "{path}");
            assert!(!body(response).await.is_empty(), "{path} is empty");
        }
    }

    #[tokio::test]
    async fn every_answer_carries_the_security_headers() {
        for asset in &ASSETS {
            let response = request(Method::GET, asset.path).await;
            let headers = response.headers();
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().expect("a text");
            assert!(
                policy.starts_with("default-src 'self';"),
                "{}: {policy}",
                asset.path
            );
            assert!(!policy.contains("unsafe"), "{}: {policy}", asset.path);
            for directive in [
                "frame-ancestors 'none'",
                "base-uri 'none'",
                "require-trusted-types-for 'script'",
            ] {
                assert!(
                    policy.contains(directive),
                    "{}: {directive} is missing in {policy}",
                    asset.path
                );
            }
            assert_eq!(
                headers[header::X_CONTENT_TYPE_OPTIONS],
                "nosniff",
                "{}",
                asset.path
            );
            assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{}", asset.path);
        }
    }

    #[tokio::test]
    async fn head_answers_without_a_body_and_other_methods_are_refused() {
        let head = request(Method::HEAD, "/").await;
        assert_eq!(head.status(), StatusCode::OK);
        assert!(body(head).await.is_empty());
        assert_eq!(
            request(Method::POST, "/").await.status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }

    #[tokio::test]
    async fn what_is_not_an_asset_is_not_found() {
        for path in [
            "/assets",
            "/assets/",
            "/assets/../Cargo.toml",
            "/assets/vendor/README.md",
            "/connection/websocket",
        ] {
            assert_eq!(
                request(Method::GET, path).await.status(),
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn it_merges_with_a_router_that_has_a_fallback() {
        let merged = Router::new()
            .fallback(|| async { StatusCode::IM_A_TEAPOT })
            .merge(router());
        let request = |path: &str| {
            Request::builder()
                .uri(path)
                .body(Body::empty())
                .expect("a request")
        };
        let page = merged
            .clone()
            .oneshot(request("/"))
            .await
            .expect("a router never fails");
        let other = merged
            .oneshot(request("/other"))
            .await
            .expect("a router never fails");
        assert_eq!(
            (page.status(), other.status()),
            (StatusCode::OK, StatusCode::IM_A_TEAPOT)
        );
    }

    #[test]
    fn the_page_names_only_files_that_are_served() {
        let page = text("/");
        let mut references = 0;
        for attribute in ["src=\"", "href=\""] {
            for (start, _) in page.match_indices(attribute) {
                let rest = &page[start + attribute.len()..];
                let target = &rest[..rest.find('"').expect("a closing quote")];
                assert!(
                    ASSETS.iter().any(|asset| asset.path == format!("/{target}")),
                    "{target} is not served"
                );
                references += 1;
            }
        }
        assert!(references >= 4, "only {references} references found in the page");
    }

    #[test]
    fn the_modules_import_only_files_that_are_served() {
        for module in ["/assets/demo.js", "/assets/network.js", "/assets/view.js"] {
            for line in text(module).lines().filter(|line| line.starts_with("import ")) {
                let target = line.split('"').nth(1).expect("a quoted target");
                let path = target.replacen("./", "/assets/", 1);
                assert!(
                    ASSETS.iter().any(|asset| asset.path == path),
                    "{module} imports {target}"
                );
            }
        }
    }

    /// The policy would block these in a browser; this says it before a browser is needed.
    #[test]
    fn nothing_is_inline_and_no_markup_is_assigned() {
        let page = text("/");
        for inline in ["<style", " style=", " onclick=", "javascript:"] {
            assert!(!page.contains(inline), "{inline} in the page");
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script src=").count() + page.matches("<script type=\"module\" src=").count()
        );
        for module in ["/assets/demo.js", "/assets/network.js", "/assets/view.js"] {
            for unsafe_way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!text(module).contains(unsafe_way), "{unsafe_way} in {module}");
            }
        }
    }

    #[test]
    fn the_vendored_sdk_is_unmodified() {
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            text("/assets/vendor/centrifuge.js").as_bytes(),
        );
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, CENTRIFUGE_SHA256);
        assert!(
            include_str!("../vendor/README.md").contains(CENTRIFUGE_SHA256),
            "vendor/README.md names another checksum"
        );
    }
}
