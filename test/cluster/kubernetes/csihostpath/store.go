package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A volume or snapshot: a directory with its bytes (img) and this (meta.json), which is written last.
type record struct {
	ID, Name string
	Size     int64
	// Of a snapshot: the volume that it is of.
	Source string
	// Of a volume: where it can be used.
	Node    string
	Created time.Time
}

const (
	volumes   = "volumes"
	snapshots = "snapshots"
	// For one program of a call. A caller that gives up sooner asks again, and then finds what was made meanwhile.
	patience = 2 * time.Minute
)

func prepare() error {
	for _, kind := range []string{volumes, snapshots} {
		if err := os.MkdirAll(filepath.Join(*stateDir, kind), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// The same name is the same volume: a call that is repeated finds what it made.
func idOf(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + "-" + hex.EncodeToString(sum[:8])
}

func dirOf(kind, id string) string { return filepath.Join(*stateDir, kind, filepath.Base(id)) }
func image(kind, id string) string { return filepath.Join(dirOf(kind, id), "img") }

func load(kind, id string) (*record, error) {
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "an id is needed")
	}
	text, err := os.ReadFile(filepath.Join(dirOf(kind, id), "meta.json"))
	if err != nil {
		return nil, err
	}
	found := &record{}
	return found, json.Unmarshal(text, found)
}

func save(kind string, r *record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(dirOf(kind, r.ID), "meta.json")
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Makes a directory with bytes and a record, or leaves nothing.
func create(kind string, r *record, fill func(img string) error) error {
	err := os.MkdirAll(dirOf(kind, r.ID), 0o755)
	if err == nil {
		err = fill(image(kind, r.ID))
	}
	if err == nil {
		err = os.Truncate(image(kind, r.ID), r.Size)
	}
	if err == nil {
		err = save(kind, r)
	}
	if err != nil {
		os.RemoveAll(dirOf(kind, r.ID))
	}
	return wrap(err)
}

func list(kind string) []*record {
	entries, _ := os.ReadDir(filepath.Join(*stateDir, kind))
	var all []*record
	for _, entry := range entries {
		if r, err := load(kind, entry.Name()); err == nil {
			all = append(all, r)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all
}

func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// Copies the bytes of a volume or snapshot. What a volume's users have written is in the file after a sync; what they write
// meanwhile may be in the copy or not, so tests let nobody write.
func copyImage(from, to string) error {
	if err := flush(from); err != nil {
		return err
	}
	_, err := run("cp", "--reflink=auto", "--sparse=always", from, to)
	return err
}

// Brings to a file what is in the caches of the loop device over it, and of the file system on that.
func flush(img string) error {
	device, err := loopOf(img)
	if err != nil || device == "" {
		return err
	}
	if place, err := run("findmnt", "-n", "-f", "-o", "TARGET", "-S", device); err == nil {
		_, err = run("sync", "-f", place)
		return err
	}
	// Mounted on another node, which has mounts of its own, or nowhere.
	syscall.Sync()
	return nil
}

// The loop device over a file, "" for none.
func loopOf(img string) (string, error) {
	if _, err := os.Stat(img); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	out, err := run("losetup", "-n", "-O", "NAME", "-j", img)
	first, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(first), err
}

func mounted(path string) bool { return exec.Command("mountpoint", "-q", path).Run() == nil }

// An error as a status of gRPC; one that is a status already stays.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return status.Error(codes.NotFound, err.Error())
	}
	if errors.Is(err, syscall.ENOSPC) {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}
