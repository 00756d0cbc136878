//! The small disk is full, and has room again.

use std::io::ErrorKind;

use switchboard_testkit::SmallDisk;

#[test]
fn full_disk_takes_nothing_until_it_is_freed() {
    let mut disk = SmallDisk::mount(1 << 20).unwrap();
    let path = disk.path().to_owned();
    let write = |name: &str| std::fs::write(path.join(name), [1; 4096]);
    write("before").unwrap();
    disk.fill().unwrap();
    assert_eq!(write("while").unwrap_err().kind(), ErrorKind::StorageFull);
    // What is freed by others is taken as well.
    std::fs::remove_file(path.join("before")).unwrap();
    let taken = || write("again").is_err_and(|error| error.kind() == ErrorKind::StorageFull);
    let begun = std::time::Instant::now();
    while !taken() {
        std::fs::remove_file(path.join("again")).ok();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(begun.elapsed().as_secs() < 10);
    }
    disk.free().unwrap();
    write("after").unwrap();
    drop(disk);
    assert!(!path.exists());
}
