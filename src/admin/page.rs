//! The page for people: how it is, at a glance.
//!
//! One file, which brings all it needs, and asks for `/status.json` every second. What has to be seen without scripts, the
//! state and the reason, is written into it here.

use super::condition::Condition;

/// The page, with places for the state and the reason.
const PAGE: &str = include_str!("page.html");

/// The page. `why`: only for who may know more than the state.
pub(super) fn html(condition: Condition, why: Option<&str>) -> String {
    PAGE.replace("{{state}}", condition.word()).replace("{{why}}", &escaped(why.unwrap_or_default()))
}

/// Text as HTML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_the_reason_can_be_read_without_scripts() {
        let page = html(Condition::Degraded, Some("<b>{{state}} & more"));
        assert!(page.contains(r#"<html lang="en" data-state="degraded">"#));
        assert!(page.contains("&lt;b&gt;{{state}} &amp; more"), "what is put in is no part of the page");
        assert!(!html(Condition::Serving, None).contains("{{"));
    }

    #[test]
    fn the_page_brings_all_it_needs() {
        for outside in
            ["src=", "href=", "@import", "url(", "//cdn", "innerHTML", "insertAdjacentHTML", "document.write"]
        {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }
}
