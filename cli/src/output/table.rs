//! Columns of text, two spaces apart, without lines; the last visible column takes what is left.

use skein_common::Timestamp;

use super::{Column, Row};
use crate::terminal::{printable, shorten};

const GAP: usize = 2;
/// The last column is never cut shorter than this.
const SHORTEST_LAST: usize = 16;

pub fn render<T: Row>(items: &[T], wide: bool, now: Timestamp, width: Option<usize>) -> String {
    let rows = rows(items, wide, now);
    let widths = widths::<T>(&rows, wide);
    let mut text = line(&titles::<T>(wide), &widths, width);
    for row in &rows {
        text.push_str(&line(row, &widths, width));
    }
    text
}

/// Cells of the columns that are shown.
pub fn rows<T: Row>(items: &[T], wide: bool, now: Timestamp) -> Vec<Vec<String>> {
    let shown = |cells: Vec<String>| {
        let cells = T::COLUMNS.iter().zip(cells);
        cells.filter(|(column, _)| wide || !column.wide).map(|(_, cell)| printable(&cell)).collect()
    };
    items.iter().map(|item| shown(item.cells(now))).collect()
}

pub fn titles<T: Row>(wide: bool) -> Vec<String> {
    let shown = |column: &&Column| wide || !column.wide;
    T::COLUMNS.iter().filter(shown).map(|column| column.title.to_owned()).collect()
}

pub fn widths<T: Row>(rows: &[Vec<String>], wide: bool) -> Vec<usize> {
    let mut widths: Vec<usize> = titles::<T>(wide).iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// One row, ended by a line feed.
pub fn line(cells: &[String], widths: &[usize], limit: Option<usize>) -> String {
    let mut text = String::new();
    let last = cells.len().saturating_sub(1);
    for (position, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if position < last {
            text.push_str(&format!("{cell:width$}{:GAP$}", ""));
        } else if let Some(limit) = limit {
            let left = limit.saturating_sub(text.chars().count());
            text.push_str(&shorten(cell, left.max(SHORTEST_LAST)));
        } else {
            text.push_str(cell);
        }
    }
    let mut text = text.trim_end().to_owned();
    text.push('\n');
    text
}
