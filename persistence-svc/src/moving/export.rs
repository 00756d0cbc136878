//! All that a store holds, into a folder.

use serde::Serialize;
use switchboard_proto::ids::{Offset, Sequence};

use super::beside::Line;
use super::{ExportedLog, FORMAT, FileTold, Folder, MANIFEST, Manifest, MoveError};
use crate::keeping::acts_in;
use crate::keeping::packed::{self, PackError, pack};
use crate::store::keeping::Kept;
use crate::store::{Behind, Place, Progress, Store};

/// No follower has this name: to nobody, each log is new.
const NOBODY: &str = "";

/// Messages of one question.
const PAGE: usize = 1000;

/// Messages of a file, about, and bytes of them.
const FILE_ROWS: usize = 10_000;
const FILE_BYTES: usize = 16 << 20;

/// Writes all that `store` holds into `folder`. Nothing may be written into the store meanwhile. Calls `tell` with each log that is done.
///
/// May be given up at any moment; it is begun anew then.
///
/// # Errors
/// [`MoveError`].
pub async fn export(
    store: &dyn Store,
    folder: &Folder,
    now_us: u64,
    mut tell: impl FnMut(&ExportedLog),
) -> Result<Manifest, MoveError> {
    if folder.get(MANIFEST).await?.is_some() {
        return Err(MoveError::Exists);
    }
    let acts = acts_in(store).await?;
    let acts = put(folder, "acts.ndjson.gz".to_owned(), &acts).await?;
    let beside = beside(store, folder).await?;
    let mut manifest = Manifest {
        format: FORMAT,
        written_us: now_us,
        messages: 0,
        logs: Vec::new(),
        acts,
        beside,
    };
    for log in store.behind(NOBODY).await? {
        let log = export_log(store, folder, log).await?;
        tell(&log);
        manifest.messages += log.files.iter().map(|file| file.lines).sum::<u64>();
        manifest.logs.push(log);
    }
    let said = serde_json::to_vec_pretty(&manifest).map_err(|error| PackError::Made(error.to_string()))?;
    folder.put(MANIFEST, said).await?;
    Ok(manifest)
}

async fn put<L: Serialize>(folder: &Folder, name: String, lines: &[L]) -> Result<FileTold, MoveError> {
    let packed = pack(lines)?;
    let told = FileTold {
        lines: lines.len() as u64,
        bytes: packed.bytes.len() as u64,
        sha256: packed.sha256,
        name,
    };
    folder.put(&told.name, packed.bytes).await?;
    Ok(told)
}

/// What messages do not tell, in files of one page each.
async fn beside(store: &dyn Store, folder: &Folder) -> Result<Vec<FileTold>, MoveError> {
    let mut files = Vec::new();
    let mut after = String::new();
    while let (page, Some(last)) = paged(store.all_heads(&after).await?) {
        let lines: Vec<Line> = page.iter().map(Line::of_head).collect();
        files.push(put(folder, name("heads", files.len()), &lines).await?);
        after = last.channel;
    }
    let mut after = String::new();
    while let (page, Some(last)) = paged(store.all_hidden(&after).await?) {
        let lines: Vec<Line> = page.iter().map(Line::of_hidden).collect();
        files.push(put(folder, name("hidden", files.len()), &lines).await?);
        after = last.0;
    }
    let mut after = (String::new(), String::new());
    while let (page, Some(last)) = paged(store.all_members((&after.0, &after.1)).await?) {
        let lines: Vec<Line> = page.iter().map(Line::of_member).collect();
        files.push(put(folder, name("members", files.len()), &lines).await?);
        after = (last.channel, last.user);
    }
    let mut after = (String::new(), String::new());
    while let (page, Some(last)) = paged(store.all_receipts((&after.0, &after.1)).await?) {
        let lines: Vec<Line> = page.iter().map(Line::of_receipt).collect();
        files.push(put(folder, name("receipts", files.len()), &lines).await?);
        after = (last.channel, last.user);
    }
    Ok(files)
}

fn paged<T: Clone>(page: Vec<T>) -> (Vec<T>, Option<T>) {
    let last = page.last().cloned();
    (page, last)
}

fn name(what: &str, number: usize) -> String {
    format!("beside/{number:06}-{what}.ndjson.gz")
}

async fn export_log(store: &dyn Store, folder: &Folder, of: Behind) -> Result<ExportedLog, MoveError> {
    let Behind {
        shard,
        log,
        stored_to,
        ..
    } = of;
    let progress = store.progress(shard, log).await?.unwrap_or(Progress::START);
    let holes = store.holes(shard, log).await?;
    let mut exported = ExportedLog {
        shard: u32::from(shard.get()),
        epoch: log.to_string(),
        read_to: stored_to.sequence().0,
        owner_epoch: progress.owner_epoch.0,
        holes: holes.iter().map(|hole| (hole.first.0, hole.last.0)).collect(),
        files: Vec::new(),
    };
    let mut rows: Vec<Kept> = Vec::new();
    let mut bytes = 0;
    let mut after = Offset::from_u64(0);
    loop {
        let page = store.log_rows((shard, log), after, stored_to, PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map_or(after, |last| last.offset);
        for row in page {
            bytes += row.message.len();
            rows.push(Kept {
                time_us: row.time_us,
                shard,
                place: Place {
                    log,
                    offset: row.offset,
                },
                channel: row.channel,
                sender: row.sender,
                message: row.message,
            });
        }
        if is_last || rows.len() >= FILE_ROWS || bytes >= FILE_BYTES {
            let rest = if is_last { Vec::new() } else { unended(&mut rows) };
            if !rows.is_empty() {
                let number = exported.files.len();
                let name = format!("messages/{:05}-{log}-{number:06}.ndjson.gz", shard.get());
                let lines: Vec<packed::Line> = rows.iter().map(packed::Line::of).collect();
                exported.files.push(put(folder, name, &lines).await?);
            }
            bytes = rest.iter().map(|row| row.message.len()).sum();
            rows = rest;
        }
        if is_last {
            return Ok(exported);
        }
    }
}

/// Takes the messages of the last record out, of which more may follow.
fn unended(rows: &mut Vec<Kept>) -> Vec<Kept> {
    let record = |row: &Kept| -> Sequence { row.place.offset.sequence() };
    let Some(last) = rows.last().map(record) else {
        return Vec::new();
    };
    rows.split_off(rows.partition_point(|row| record(row) < last))
}
