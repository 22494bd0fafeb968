//! A page of the web with a fact on it: written by a source, read by a program that has to find the fact.

use std::fmt::Write as _;
use std::rc::Rc;

use html5ever::tendril::TendrilSink;
use html5ever::{ParseOpts, parse_document};
use markup5ever_rcdom::{Handle, NodeData, RcDom};

use super::{SOURCES, fact, web_name};
use crate::error::BenchError;

/// Marks the cell of the fact.
const CLASS: &str = "value";

/// A page of so many bytes, with the fact halfway down.
pub(super) fn page(source: u8, len: usize) -> Vec<u8> {
    let name = web_name(source);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Yearbook of {name}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>body{{margin:0 auto;max-width:60em}}.infobox td{{padding:.2em .6em}}</style>\
         </head>\n<body><header><nav><ul>"
    );
    for other in 0..SOURCES {
        // Writing to a string does not fail.
        _ = write!(page, "<li><a href=\"https://{0}/\">{0}</a></li>", web_name(other));
    }
    page.push_str("</ul></nav></header>\n<main>\n");
    let (infobox, end) = (infobox(source), "</main>\n</body></html>\n");
    let (mut number, mut has_fact) = (0, false);
    loop {
        if !has_fact && page.len() >= len / 2 {
            page.push_str(&infobox);
            has_fact = true;
        }
        let section = section(number);
        let room = len.saturating_sub(page.len() + end.len() + if has_fact { 0 } else { infobox.len() });
        if section.len() > room {
            break;
        }
        page.push_str(&section);
        number += 1;
    }
    let padding = len.saturating_sub(page.len() + end.len());
    page.extend(std::iter::repeat_n(' ', padding));
    page.push_str(end);
    page.into_bytes()
}

fn infobox(source: u8) -> String {
    format!(
        "<table class=\"infobox\"><caption>At a glance</caption><tbody><tr><th scope=\"row\">Founded</th><td>19{:02}</td></tr>\
         <tr><th scope=\"row\">Annual output</th><td class=\"{CLASS}\">{}</td></tr></tbody></table>\n",
        source + 30,
        fact(source)
    )
}

/// What pages consist of: headings, links, lists, tables, entities.
fn section(number: usize) -> String {
    format!(
        "<section id=\"s{number}\"><h2>{number}. Of the year <time datetime=\"{0}\">{0}</time></h2>\n\
         <p>What was <em>reported</em> that year is in <a href=\"/reports/{0}?chapter={number}\">report {number}</a>, &ldquo;as far as it is \
         known&rdquo;; see also <a href=\"#s{1}\">below</a> &amp; <a href=\"/notes#n{number}\" class=\"note\">[{number}]</a>.</p>\n\
         <ul><li>first quarter: <b>{2}</b>&nbsp;t</li><li>second quarter: <b>{3}</b>&nbsp;t</li><li>the rest of it: unknown</li></ul>\n\
         <table class=\"figures\"><tr><th>month</th><th>rain</th></tr><tr><td>May</td><td>{4}</td></tr><tr><td>June</td><td>{5}</td></tr></table>\n\
         </section>\n",
        1950 + number % 70,
        number + 1,
        number * 37 % 1_000,
        number * 91 % 1_000,
        number * 13 % 200,
        number * 29 % 200,
    )
}

/// Finds the fact on a page.
pub(super) fn read(mut page: &[u8]) -> Result<String, BenchError> {
    // A node that is dropped takes all below it along: the tree has to outlive the walk.
    let tree = parse_document(RcDom::default(), ParseOpts::default()).from_utf8().read_from(&mut page)?;
    let mut waiting = vec![Rc::clone(&tree.document)];
    while let Some(node) = waiting.pop() {
        if is_cell_of_fact(&node) {
            return Ok(text(&node));
        }
        waiting.extend(node.children.borrow().iter().rev().cloned());
    }
    Err(BenchError::wrong("the page has no fact"))
}

fn is_cell_of_fact(node: &Handle) -> bool {
    let NodeData::Element { name, attrs, .. } = &node.data else { return false };
    let is_marked = || attrs.borrow().iter().any(|attr| &*attr.name.local == "class" && &*attr.value == CLASS);
    &*name.local == "td" && is_marked()
}

fn text(node: &Handle) -> String {
    let mut text = String::new();
    for child in node.children.borrow().iter() {
        if let NodeData::Text { contents } = &child.data {
            text.push_str(&contents.borrow());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fact_of_a_page_is_found_and_the_page_is_as_long_as_it_should_be() {
        for (source, len) in [(0, 20_000), (19, 200_000)] {
            let page = page(source, len);
            assert_eq!(page.len(), len);
            assert_eq!(read(&page).unwrap(), fact(source));
        }
    }

    #[test]
    fn a_page_without_a_fact_is_an_error() {
        assert!(read(b"<html><td>48,213</td>").is_err());
    }
}
