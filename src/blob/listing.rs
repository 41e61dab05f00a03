//! Listings of places that know folders only: a page is made of as few of them as it takes.

use std::vec::IntoIter;

use super::store::{Blob, BlobError, LIST_PAGE_MAX};

/// What a folder has: a blob, or a folder, whose name ends with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the root on.
    pub name: String,
    /// 0 for a folder.
    pub bytes: u64,
}

impl Entry {
    fn is_folder(&self) -> bool {
        self.name.ends_with('/')
    }

    /// Whether it is behind `after`, or has something that is.
    fn is_behind(&self, after: Option<&str>) -> bool {
        after.is_none_or(|after| self.name.as_str() > after || (self.is_folder() && after.starts_with(&self.name)))
    }
}

/// A page as [`Blobs::list`](super::Blobs::list) gives it. `entries` gives the entries of a folder in any order; none where
/// there is no such folder. Folders whose blobs all come before the page are not asked for.
pub(super) async fn page<Entries, Listing>(
    prefix: &str,
    after: Option<&str>,
    entries: Entries,
) -> Result<Vec<Blob>, BlobError>
where
    Entries: Fn(String) -> Listing + Send,
    Listing: Future<Output = Result<Vec<Entry>, BlobError>> + Send,
{
    let open = |mut found: Vec<Entry>| -> IntoIter<Entry> {
        found.retain(|entry| entry.is_behind(after));
        // A folder stands where its blobs do, since its name ends as theirs go on.
        found.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        found.into_iter()
    };
    let mut folders = vec![open(entries(prefix.to_owned()).await?)];
    let mut blobs = Vec::new();
    while let Some(folder) = folders.last_mut() {
        match folder.next() {
            None => drop(folders.pop()),
            Some(entry) if entry.is_folder() => folders.push(open(entries(entry.name).await?)),
            Some(Entry { name, bytes }) => blobs.push(Blob { name, bytes }),
        }
        if blobs.len() == LIST_PAGE_MAX {
            break;
        }
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parking_lot::Mutex;

    use super::*;

    /// The pages of a place with 50 folders of 100 blobs ask for each folder once, or twice where a page ends in it.
    #[tokio::test]
    async fn pages_do_not_ask_for_what_is_before_them() {
        let (asked, all) = (Mutex::new(Vec::new()), Mutex::new(BTreeSet::new()));
        for folder in 0..50 {
            for blob in 0..100 {
                all.lock().insert(format!("all/{folder:02}/{blob:03}"));
            }
        }
        let entries = |folder: String| {
            let names: BTreeSet<String> = all
                .lock()
                .iter()
                .filter_map(|name| {
                    let rest = name.strip_prefix(&folder)?;
                    let end = rest.find('/').map_or(rest.len(), |slash| slash + 1);
                    Some(format!("{folder}{}", &rest[..end]))
                })
                .collect();
            asked.lock().push(folder);
            async move { Ok(names.into_iter().map(|name| Entry { name, bytes: 0 }).collect()) }
        };
        let mut found = Vec::new();
        loop {
            let after = found.last().cloned();
            let page = page("all/", after.as_deref(), &entries).await.unwrap();
            let is_last = page.len() < LIST_PAGE_MAX;
            found.extend(page.into_iter().map(|blob| blob.name));
            if is_last {
                break;
            }
        }
        assert!(found.iter().eq(all.lock().iter()), "{} names", found.len());
        let asked = asked.lock().len();
        assert!(asked <= 50 + 5 + 6, "{asked} folders were asked for");
    }
}
