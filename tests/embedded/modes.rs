//! Only the owner can access the files of a store, whatever the mode of the directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use eventstream::broker::embedded::{BackupError, backup};
use eventstream::broker::{Broker, EventLog};

use super::audit::open;
use super::load;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The files of a directory that others can access.
fn open_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let open = entries.filter(|entry| entry.metadata().unwrap().mode() & 0o077 != 0);
    open.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_is_closed_and_what_lies_open_is_closed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    let broker = open(dir.path());
    broker.append(vec![load::new_append(None)]).await.unwrap();
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert!(names >= 4, "the database, its log, its index and the lock: {names}");
    assert_eq!(open_files(dir.path()), [""; 0]);
    assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o755, "the directory was there before");
    // As a crash leaves them: log and index are there.
    drop(broker);
    for entry in fs::read_dir(dir.path()).unwrap() {
        set_mode(&entry.unwrap().path(), 0o666);
    }
    let broker = open(dir.path());
    broker.append(vec![load::new_append(None)]).await.unwrap();
    assert_eq!(open_files(dir.path()), [""; 0]);
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_which_others_may_write_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o777);
    let broker = open(dir.path());
    assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_closed_and_one_of_two_at_a_time_is_made() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    set_mode(place.path(), 0o755);
    let broker = open(dir.path());
    broker.append(vec![load::new_append(None)]).await.unwrap();
    // The second one begins while the first one reports its progress.
    let (store, to) = (dir.path().to_owned(), place.path().to_owned());
    let second = std::sync::Arc::new(std::sync::Mutex::new(None));
    let seen = second.clone();
    let copied = backup(&store.clone(), &to.clone(), move |_, _| {
        *seen.lock().unwrap() = Some(backup(&store, &to, |_, _| {}));
    });
    copied.unwrap();
    let refused = second.lock().unwrap().take().unwrap();
    assert!(matches!(refused, Err(BackupError::UnderWay(_))), "{refused:?}");
    let names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["eventstream.db"]);
    assert_eq!(open_files(place.path()), [""; 0]);
    open(place.path());
}
