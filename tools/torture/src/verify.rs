//! Compares what the gateway holds with what it may hold.

use crate::Result;
use crate::client::{Access, Client, Entry, element, elements, refused};
use crate::content::etag;
use crate::history::{History, Mark, Upload, Version};
use crate::workload::BUCKET;
use std::collections::{BTreeMap, BTreeSet};

/// What came of reading one key.
pub enum Finding {
    /// It is in this allowed state.
    Sound(Option<Version>),
    /// The gateway answered with an error rather than with bytes.
    Told(String),
    /// Lost, or other bytes than were put.
    Wrong(String),
}

/// Reads every key of every history and the listing. The keys' states as found, or all that is wrong.
pub async fn verify(
    access: &Access,
    histories: &[History],
    at: Mark,
) -> Result<Vec<BTreeMap<String, Option<Version>>>> {
    let mut tasks = Vec::new();
    for history in histories {
        let (access, history) = (access.clone(), history.clone());
        tasks.push(tokio::spawn(async move { verify_history(&access, &history, at).await }));
    }
    let (mut states, mut expected, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for task in tasks {
        let (found, entries, problems) = task.await??;
        states.push(found);
        expected.extend(entries);
        wrong.extend(problems);
    }
    // Small pages, so that continuing is exercised too.
    let listed = Client::new(access).list(BUCKET, 37).await?;
    let by_key = |entries: Vec<Entry>| -> BTreeMap<String, Entry> {
        entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
    };
    let count = listed.len();
    let (listed, expected) = (by_key(listed), by_key(expected));
    if listed.len() != count {
        wrong.push("the listing names a key twice".into());
    }
    let names: BTreeSet<&String> = listed.keys().chain(expected.keys()).collect();
    for name in names
        .into_iter()
        .filter(|name| listed.get(*name) != expected.get(*name))
    {
        wrong.push(format!(
            "listing: {:?} where reading found {:?}",
            listed.get(name),
            expected.get(name)
        ));
    }
    if wrong.is_empty() {
        Ok(states)
    } else {
        Err(wrong.join("\n").into())
    }
}

type Checked = (BTreeMap<String, Option<Version>>, Vec<Entry>, Vec<String>);

async fn verify_history(access: &Access, history: &History, at: Mark) -> Result<Checked> {
    let mut client = Client::new(access);
    let (mut states, mut entries, mut wrong) = (BTreeMap::new(), Vec::new(), Vec::new());
    for key in history.changes.keys() {
        match check_key(&mut client, key, &history.allowed(key, at)).await {
            Finding::Sound(state) => {
                if let Some(Version {
                    content,
                    etag: Some(etag),
                }) = &state
                {
                    entries.push(Entry {
                        key: key.clone(),
                        etag: etag.clone(),
                        size: content.size(),
                    });
                }
                states.insert(key.clone(), state);
            }
            Finding::Told(text) | Finding::Wrong(text) => wrong.push(text),
        }
    }
    for upload in history.open_uploads(at) {
        if let Some(text) = check_upload(&mut client, upload, at).await? {
            wrong.push(text);
        }
    }
    Ok((states, entries, wrong))
}

/// Reads one key and compares it with the states it may be in.
pub async fn check_key(client: &mut Client, key: &str, allowed: &[Option<Version>]) -> Finding {
    let path = format!("/{BUCKET}/{key}");
    let response = match client.send("GET", &path, &[], &[], &[]).await {
        Ok(response) => response,
        Err(error) => return Finding::Told(format!("GET {key}: {error}")),
    };
    let absent =
        element(&response.text().chars().take(2000).collect::<String>(), "Code").as_deref() == Some("NoSuchKey");
    match response.status {
        404 if absent && allowed.contains(&None) => return Finding::Sound(None),
        404 => return Finding::Wrong(refused(&format!("{key} is lost; allowed {allowed:?}"), &response)),
        200 => {}
        500.. => return Finding::Told(refused(&format!("GET {key}"), &response)),
        _ => return Finding::Wrong(refused(&format!("GET {key}"), &response)),
    }
    let told = response.etag();
    let found = allowed.iter().flatten().find(|version| {
        version.content.size() == response.body.len()
            && version.etag.as_ref().is_none_or(|etag| *etag == told)
            && version.content.bytes() == response.body
    });
    let Some(found) = found else {
        let size = response.body.len();
        return Finding::Wrong(format!(
            "{key}: {size} bytes, ETag {told}, are in no allowed state of {allowed:?}"
        ));
    };
    match client.send("HEAD", &path, &[], &[], &[]).await {
        Err(error) => Finding::Told(format!("HEAD {key}: {error}")),
        Ok(head) if head.status >= 500 => Finding::Told(refused(&format!("HEAD {key}"), &head)),
        Ok(head)
            if head.status == 200
                && head.etag() == told
                && head.header("content-length") == Some(&response.body.len().to_string()) =>
        {
            Finding::Sound(Some(Version {
                content: found.content.clone(),
                etag: Some(told),
            }))
        }
        Ok(head) => Finding::Wrong(format!("HEAD {key} differs from GET: {head:?}")),
    }
}

/// Demands that an open upload has its acknowledged parts.
async fn check_upload(client: &mut Client, upload: &Upload, at: Mark) -> Result<Option<String>> {
    let path = format!("/{BUCKET}/{}", upload.key);
    let response = client.send("GET", &path, &[("uploadId", &upload.id)], &[], &[]).await?;
    if response.status != 200 {
        return Ok(Some(refused(
            &format!("the open upload of {} is lost", upload.key),
            &response,
        )));
    }
    let text = response.text();
    let listed: BTreeMap<u32, String> = elements(&text, "Part")
        .into_iter()
        .filter_map(|part| {
            let etag = element(part, "ETag")?;
            Some((
                element(part, "PartNumber")?.parse().ok()?,
                etag.trim_matches('"').to_owned(),
            ))
        })
        .collect();
    let numbers: BTreeSet<u32> = upload
        .parts
        .iter()
        .map(|part| part.number)
        .chain(listed.keys().copied())
        .collect();
    for number in numbers {
        let allowed = upload.allowed(number, at);
        let found = listed.get(&number);
        let sound = allowed
            .iter()
            .any(|content| content.as_ref().map(|content| etag(&content.bytes())).as_ref() == found);
        if !sound {
            return Ok(Some(format!(
                "part {number} of an open upload of {}: {found:?} found",
                upload.key
            )));
        }
    }
    Ok(None)
}
