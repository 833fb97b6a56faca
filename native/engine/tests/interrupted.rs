//! A qcow2 whose transfer is cut and goes on, through the whole engine: what the source can do decides how.

mod conversions;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use conversions::KEY;
use diskferry_engine::conversion::{Conversion, Next, Options, Pushed, Request, Way, journal_store};
use diskferry_engine::error::{Code, Error, Result, Stage};
use diskferry_engine::journal::{self, Checkpoint, Key, Recovered};
use diskferry_engine::targets;

const CLUSTER: usize = 4096;
/// Guest bytes of one L2 table: 512 entries of 8 bytes.
const SPAN: usize = CLUSTER / 8 * CLUSTER;
const TABLES: usize = 4;
const COPIED: u64 = 1 << 63;

/// A qcow2 that is put together cluster by cluster, and the disk that it holds.
struct Image {
    file: Vec<u8>,
    disk: Vec<u8>,
}

impl Image {
    /// The header and the L1 table, which lies in cluster 1.
    fn new(clusters: usize) -> Self {
        let mut image = Self { file: vec![0; clusters * CLUSTER], disk: vec![0; TABLES * SPAN] };
        image.put(0, b"QFI\xfb\x00\x00\x00\x02");
        image.put(20, &12_u32.to_be_bytes());
        image.put(24, &((TABLES * SPAN) as u64).to_be_bytes());
        image.put(36, &(TABLES as u32).to_be_bytes());
        image.put(40, &(CLUSTER as u64).to_be_bytes());
        image
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn table(&mut self, index: usize, cluster: usize) {
        let entry = COPIED | (cluster * CLUSTER) as u64;
        self.put(CLUSTER + index * 8, &entry.to_be_bytes());
    }

    /// Entry `n` of the table in cluster `table`, for guest cluster `guest`: plain data in `cluster`.
    fn map(&mut self, table: usize, guest: usize, cluster: usize) {
        let content = [cluster as u8 | 1; CLUSTER];
        self.put(cluster * CLUSTER, &content);
        self.disk[guest * CLUSTER..(guest + 1) * CLUSTER].copy_from_slice(&content);
        let entry = COPIED | (cluster * CLUSTER) as u64;
        self.put(table * CLUSTER + guest % 512 * 8, &entry.to_be_bytes());
    }

    /// The first table and its data fill 128 KiB; the second one, behind, names the first data cluster too, and with
    /// a third one at the end of the file what lies between, by turns.
    fn shared() -> Self {
        let last = 33 + 600;
        let mut image = Self::new(last + 1);
        image.table(0, 2);
        image.table(1, 32);
        image.table(2, last);
        for cluster in 3..32 {
            // Behind the first MiB of the disk, which is held back.
            image.map(2, 256 + cluster - 3, cluster);
        }
        image.map(32, 512, 3);
        for n in 0..300 {
            image.map(32, 513 + n, 33 + 2 * n);
            image.map(last, 1024 + n, 34 + 2 * n);
        }
        image
    }
}

fn options(file: &[u8], way: Way) -> Options {
    Options { way, ..conversions::of(file) }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("disk.img")
    }

    fn checkpoint(&self) -> Box<Checkpoint> {
        let target = targets::open(&self.path()).unwrap();
        match journal::recover(&*journal_store(&target, target.facts().length), &Key::new(KEY)).unwrap() {
            Recovered::Checkpoint(checkpoint) => checkpoint,
            other => panic!("{other:?}"),
        }
    }

    fn is(&self, disk: &[u8]) {
        let found = std::fs::read(self.path()).unwrap();
        let wrong = found.iter().zip(disk).position(|(found, expected)| found != expected);
        assert_eq!((wrong, found.len()), (None, disk.len()), "first wrong byte");
    }
}

fn start(path: &Path, options: Options) -> Conversion {
    Conversion::start(targets::open(path).unwrap(), options).unwrap()
}

/// Pushes a range as a source would that ends where the file does; false when the pass is over.
fn push(conversion: &Conversion, file: &[u8], request: Request) -> Result<bool> {
    let end = request.to.unwrap_or(file.len() as u64) as usize;
    if end > file.len() {
        return Err(Error::new(Code::Truncated, Stage::Source, format!("asked for {request:?}")));
    }
    let mut at = request.from as usize;
    while at < end {
        let n = (end - at).min(128 << 10);
        match conversion.intake().push(at as u64, &file[at..at + n])? {
            Pushed::Taken => at += n,
            Pushed::Full => std::thread::sleep(Duration::from_micros(200)),
            Pushed::PassOver => return Ok(false),
        }
    }
    if request.to.is_none() {
        conversion.intake().end(file.len() as u64);
    }
    Ok(true)
}

fn next(conversion: &Conversion) -> Result<Vec<Request>> {
    loop {
        match conversion.intake().next(1000)? {
            Next::Finished => return Ok(Vec::new()),
            Next::Wait => std::thread::sleep(Duration::from_micros(200)),
            Next::Fetch(requests) => return Ok(requests),
        }
    }
}

/// Brings all that is asked for, and answers what that was.
fn carry(conversion: &Conversion, file: &[u8]) -> Result<Vec<Request>> {
    let mut asked = Vec::new();
    loop {
        let requests = next(conversion)?;
        if requests.is_empty() {
            conversion.finish()?;
            return Ok(asked);
        }
        for request in requests {
            asked.push(request);
            if !push(conversion, file, request)? {
                break;
            }
        }
    }
}

/// Until a checkpoint lies above `offset`.
fn durable(conversion: &Conversion, offset: u64) {
    let began = Instant::now();
    while conversion.progress().watermark <= offset {
        assert!(began.elapsed() < Duration::from_secs(20), "no checkpoint above {offset}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Longer than the time after which a checkpoint is due, and than a slab waits to be full.
const PAUSE: Duration = Duration::from_millis(1100);

/// Up to the first table's data, with a checkpoint behind it: the second table was not seen.
fn cut_between_the_tables(place: &Place, image: &Image, options: Options) -> Conversion {
    let conversion = start(&place.path(), options);
    assert_eq!(next(&conversion).unwrap(), [Request { from: 0, to: None }]);
    std::thread::sleep(PAUSE);
    push(&conversion, &image.file, Request { from: 0, to: Some(32 * CLUSTER as u64) }).unwrap();
    durable(&conversion, 4 * CLUSTER as u64);
    conversion
}

#[test]
fn a_source_given_again_is_not_taken_for_written_where_its_table_came_late() {
    let (place, image) = (Place::new(), Image::shared());
    let once = Options { seekable: false, ..options(&image.file, Way::Stream) };
    drop(cut_between_the_tables(&place, &image, once.clone()));
    assert_eq!(place.checkpoint().watermark, 32 * CLUSTER as u64);
    let conversion = start(&place.path(), Options { resume: true, ..once });
    let asked = carry(&conversion, &image.file).unwrap();
    assert_eq!(asked, [Request { from: 0, to: None }]);
    place.is(&image.disk);
}

/// The last cluster is compressed, and the file ends within its last sector, as it may.
fn ends_in_a_sector() -> Image {
    let mut image = Image::new(400);
    image.table(0, 2);
    image.table(1, 3);
    for n in 0..250 {
        image.map(2, 256 + n, 4 + n);
    }
    let content = [0x77; CLUSTER];
    let mut packed = vec![0; CLUSTER];
    let length = libdeflater::Compressor::new(libdeflater::CompressionLvl::default())
        .deflate_compress(&content, &mut packed)
        .unwrap();
    let at = 254 * CLUSTER;
    image.put(at, &packed[..length]);
    image.file.truncate(at + length);
    // Bit 62, no sectors beyond the first.
    image.put(3 * CLUSTER, &((1 << 62) | at as u64).to_be_bytes());
    image.disk[SPAN..SPAN + CLUSTER].copy_from_slice(&content);
    image
}

#[test]
fn of_a_source_of_unknown_length_no_range_is_asked_for() {
    let image = ends_in_a_sector();
    for way in [Way::Stream, Way::Seek] {
        let place = Place::new();
        let unknown = Options { source_length: None, ..options(&image.file, way) };
        let conversion = start(&place.path(), unknown.clone());
        assert_eq!(next(&conversion).unwrap(), [Request { from: 0, to: None }]);
        std::thread::sleep(PAUSE);
        push(&conversion, &image.file, Request { from: 0, to: Some(32 * CLUSTER as u64) }).unwrap();
        durable(&conversion, 4 * CLUSTER as u64);
        drop(conversion);
        let conversion = start(&place.path(), Options { resume: true, ..unknown });
        let asked = carry(&conversion, &image.file).unwrap();
        assert_eq!(asked, [Request { from: 0, to: None }]);
        place.is(&image.disk);
    }
}

/// Began in order, turned where the second table names what was given away, and was cut when nearly all was there.
#[test]
fn a_stream_that_turned_does_not_read_again_what_its_last_table_names() {
    let (place, image) = (Place::new(), Image::shared());
    let conversion = cut_between_the_tables(&place, &image, options(&image.file, Way::Stream));
    let rest = Request { from: 32 * CLUSTER as u64, to: None };
    // All of it may be taken before the decoder comes to the table.
    let _ = push(&conversion, &image.file, rest).unwrap();
    'rounds: loop {
        for request in next(&conversion).unwrap() {
            // The pass over the rest.
            if request.to.is_none() {
                std::thread::sleep(PAUSE);
                let to = Some((2 << 20) as u64);
                push(&conversion, &image.file, Request { to, ..request }).unwrap();
                break 'rounds;
            }
            push(&conversion, &image.file, request).unwrap();
        }
    }
    durable(&conversion, 1 << 20);
    drop(conversion);
    let checkpoint = place.checkpoint();
    assert_eq!(checkpoint.way, "seek");

    let again = Options { resume: true, ..options(&image.file, Way::Stream) };
    let conversion = start(&place.path(), again);
    let asked = carry(&conversion, &image.file).unwrap();
    let below = asked.iter().filter_map(|r| Some(r.to?.min(checkpoint.watermark).saturating_sub(r.from))).sum::<u64>();
    // Header, L1 and two tables.
    assert!(below <= 4 * CLUSTER as u64, "{below} bytes from below {} in {asked:?}", checkpoint.watermark);
    place.is(&image.disk);
}

/// Set for the process that is to be killed: the target's path.
const DOOMED: &str = "DISKFERRY_TEST_DOOMED";

/// Killed when its file has its length and all but its first sector: a file that anybody may begin again.
#[test]
fn a_small_file_that_was_nearly_done_is_not_taken_for_foreign() {
    let name = "a_small_file_that_was_nearly_done_is_not_taken_for_foreign";
    let disk = |length: usize| -> Vec<u8> { (0..length).map(|n| (n % 251) as u8 | 1).collect() };
    if let Some(path) = std::env::var_os(DOOMED) {
        let path = PathBuf::from(path);
        let disk = disk(path.file_name().unwrap().to_str().unwrap().parse().unwrap());
        let options = Options { failpoint: Some("finish-front".to_owned()), ..options(&disk, Way::Stream) };
        let _ = carry(&start(&path, options), &disk);
        return;
    }
    for length in [512, 3000, 8000, 70_000, 1_000_000, 1_500_000] {
        let place = Place::new();
        let path = place.0.path().join(length.to_string());
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let killed = child.args(["--exact", name]).env(DOOMED, &path).output().unwrap();
        assert!(!killed.status.success(), "{length}: {killed:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length as u64);

        let target = targets::open(&path).unwrap();
        let store = journal_store(&target, target.facts().length);
        let found = journal::recover(&*store, &Key::new(KEY)).unwrap();
        let ours = matches!(found, Recovered::Started { identity: Some(_), .. });
        assert!(ours || journal::was_beginning(&*store).unwrap(), "{length}: {found:?}");
        drop((store, target));

        let disk = disk(length);
        carry(&start(&path, options(&disk, Way::Stream)), &disk).unwrap();
        assert!(std::fs::read(&path).unwrap() == disk, "{length}");
    }
}
