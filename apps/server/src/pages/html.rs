//! How pages look, and how text gets into them.
//!
//! Pages are whole without scripts and without anything from elsewhere; their policy says so to the browser. Whatever
//! comes from a host or a person goes through [`Html::text`], which takes care of it: what stands in pages as it is can
//! only be a literal of the program.

use std::fmt::Write as _;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use data_encoding::BASE64;

/// The look of all pages. The policy names its hash, so that no other style is in force.
const STYLE: &str = include_str!("style.css");

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; form-action 'self'; frame-ancestors 'none'; \
         base-uri 'none'"
    );
    HeaderValue::try_from(policy).expect("a policy is ASCII")
});

/// A piece of a page.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Adds markup as it stands.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, or the value of an attribute in double quotes, from wherever.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // They would turn around what stands beside them, or are no text at all.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.0.push('\u{fffd}'),
                _ if character.is_control() && character != '\n' => self.0.push('\u{fffd}'),
                _ => self.0.push(character),
            }
        }
        self
    }

    /// Adds a number.
    pub(super) fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        let _ = write!(self.0, "{}", number.into());
        self
    }

    /// Adds another piece.
    pub(super) fn piece(&mut self, piece: &Self) -> &mut Self {
        self.0.push_str(&piece.0);
        self
    }
}

/// How wide a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// For a few sentences and forms.
    Narrow,
    /// For tables.
    Wide,
}

/// A whole page. The title is that of the window.
pub(super) fn page(status: StatusCode, title: &str, width: Width, body: &Html) -> Response {
    let mut whole = Html::default();
    whole
        .raw(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\">\
             <link rel=\"icon\" href=\"data:,\"><title>",
        )
        .text(title)
        .raw(" - Muster</title><style>")
        .raw(STYLE)
        .raw("</style></head>")
        .raw(match width {
            Width::Narrow => "<body class=\"narrow\">",
            Width::Wide => "<body>",
        })
        .piece(body)
        .raw("</body></html>\n");
    let mut response = (status, axum::response::Html(whole.0)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    // Addresses of pages hold secrets: the setup link's, a host's token.
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A page of a heading and what is below it.
pub(super) fn plain_page(status: StatusCode, title: &str, body: &Html) -> Response {
    let mut main = Html::default();
    main.raw("<main><h1>")
        .text(title)
        .raw("</h1>")
        .piece(body)
        .raw("</main>");
    page(status, title, Width::Narrow, &main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_host_calls_itself_stays_text() {
        let mut html = Html::default();
        html.raw("<b title=\"")
            .text("\" onload='x'")
            .raw("\">")
            .text("</b><script>1 & 2\u{202e}\0</script>")
            .raw("</b>");
        assert_eq!(
            html.0,
            "<b title=\"&quot; onload=&#39;x&#39;\">&lt;/b&gt;&lt;script&gt;1 &amp; 2\u{fffd}\u{fffd}&lt;/script&gt;</b>"
        );
    }

    #[test]
    fn the_style_ends_no_element_and_loads_nothing() {
        assert!(!STYLE.contains('<') && !STYLE.contains("url(") && !STYLE.contains("@import"));
    }
}
