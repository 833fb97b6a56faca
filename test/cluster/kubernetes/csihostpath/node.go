package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: *nodeID, AccessibleTopology: topology(*nodeID)}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	response := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		response.Capabilities = append(response.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return response, nil
}

// Block: a loop device that lives until the volume is unstaged. Filesystem: a mount whose loop device goes with it, so that
// none is left however this ends.
func (d *driver) NodeStageVolume(_ context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := load(volumes, req.VolumeId)
	if err != nil {
		return nil, wrap(err)
	}
	if r.Node != *nodeID {
		return nil, status.Errorf(codes.FailedPrecondition, "the volume is on node %s, and this is %s", r.Node, *nodeID)
	}
	img := image(volumes, r.ID)
	if req.VolumeCapability.GetBlock() != nil {
		device, err := loopOf(img)
		if err == nil && device == "" {
			_, err = run("losetup", "-f", img)
		}
		return &csi.NodeStageVolumeResponse{}, wrap(err)
	}
	if mounted(req.StagingTargetPath) {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	if err := os.MkdirAll(req.StagingTargetPath, 0o750); err != nil {
		return nil, wrap(err)
	}
	return &csi.NodeStageVolumeResponse{}, wrap(mountImage(img, req.StagingTargetPath, req.VolumeCapability.GetMount()))
}

func mountImage(img, place string, wanted *csi.VolumeCapability_MountVolume) error {
	kind, err := run("blkid", "-p", "-o", "value", "-s", "TYPE", img)
	fresh := err != nil && strings.Contains(err.Error(), "exit status 2:") // nothing found
	if err != nil && !fresh {
		return err
	}
	if fresh {
		if kind = wanted.GetFsType(); kind == "" {
			kind = "ext4"
		}
		switch kind {
		case "xfs": // under 300 MiB only where that is asked for
			_, err = run("mkfs.xfs", "--unsupported", "-q", "-f", img)
		case "ext4":
			_, err = run("mkfs.ext4", "-q", "-F", "-m0", "-E", "lazy_itable_init=1,lazy_journal_init=1", img)
		default:
			return status.Errorf(codes.InvalidArgument, "there is no file system %q here: ext4, xfs", kind)
		}
		if err != nil {
			return err
		}
	}
	if kind != "xfs" && kind != "ext4" {
		return status.Errorf(codes.FailedPrecondition, "what is on the volume is %q, and no file system of this driver", kind)
	}
	options := append([]string{"loop"}, wanted.GetMountFlags()...)
	switch kind {
	case "xfs": // a copy has the identity of what it is a copy of
		options = append(options, "nouuid")
	case "ext4": // before it is mounted: growing it later wants CAP_SYS_RESOURCE
		if !fresh {
			if _, err := run("e2fsck", "-f", "-p", img); err != nil && !strings.Contains(err.Error(), "exit status 1:") {
				return err
			}
			if _, err := run("resize2fs", img); err != nil {
				return err
			}
		}
	}
	if _, err := run("mount", "-t", kind, "-o", strings.Join(options, ","), img, place); err != nil {
		return err
	}
	if kind == "xfs" {
		if _, err := run("xfs_growfs", place); err != nil {
			run("umount", place)
			return err
		}
	}
	return nil
}

func (d *driver) NodeUnstageVolume(_ context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if mounted(req.StagingTargetPath) {
		if _, err := run("umount", req.StagingTargetPath); err != nil {
			return nil, wrap(err)
		}
	}
	// That of a mount has gone with it.
	device, err := loopOf(image(volumes, req.VolumeId))
	if err == nil && device != "" {
		_, err = run("losetup", "-d", device)
	}
	return &csi.NodeUnstageVolumeResponse{}, wrap(err)
}

func (d *driver) NodePublishVolume(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from, bound := req.StagingTargetPath, mounted(req.TargetPath)
	if req.VolumeCapability.GetBlock() != nil {
		device, err := loopOf(image(volumes, req.VolumeId))
		if err != nil {
			return nil, wrap(err)
		}
		if device == "" {
			return nil, status.Error(codes.FailedPrecondition, "the volume is not staged: it has no loop device")
		}
		// mountpoint(1) does not know a bound device from its own.
		if found, err := os.Stat(req.TargetPath); err == nil && found.Mode()&os.ModeDevice != 0 {
			bound = true
		}
		from = device
		if err := os.MkdirAll(filepath.Dir(req.TargetPath), 0o750); err != nil {
			return nil, wrap(err)
		}
		if !bound {
			if err := os.WriteFile(req.TargetPath, nil, 0o640); err != nil {
				return nil, wrap(err)
			}
		}
	} else if err := os.MkdirAll(req.TargetPath, 0o750); err != nil {
		return nil, wrap(err)
	}
	if bound {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if _, err := run("mount", "--bind", from, req.TargetPath); err != nil {
		return nil, wrap(err)
	}
	if req.Readonly {
		if _, err := run("mount", "-o", "remount,bind,ro", req.TargetPath); err != nil {
			syscall.Unmount(req.TargetPath, 0)
			return nil, wrap(err)
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (d *driver) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// EINVAL: nothing is mounted there.
	if err := syscall.Unmount(req.TargetPath, 0); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
		return nil, wrap(err)
	}
	// Not with what is in it: were it still mounted, that would be the volume's.
	if err := os.Remove(req.TargetPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, wrap(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *driver) NodeExpandVolume(_ context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := load(volumes, req.VolumeId)
	if err != nil {
		return nil, wrap(err)
	}
	device, err := loopOf(image(volumes, r.ID))
	if err != nil {
		return nil, wrap(err)
	}
	if device == "" {
		return nil, status.Error(codes.FailedPrecondition, "the volume is not staged: it has no loop device")
	}
	if _, err := run("losetup", "-c", device); err != nil {
		return nil, wrap(err)
	}
	if req.VolumeCapability.GetBlock() == nil {
		grow := []string{"resize2fs", device}
		if kind, _ := run("blkid", "-p", "-o", "value", "-s", "TYPE", device); kind == "xfs" {
			grow = []string{"xfs_growfs", req.VolumePath}
		}
		if _, err := run(grow[0], grow[1:]...); err != nil {
			return nil, wrap(err)
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: r.Size}, nil
}

func (d *driver) NodeGetVolumeStats(_ context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	r, err := load(volumes, req.VolumeId)
	if err != nil {
		return nil, wrap(err)
	}
	found, err := os.Stat(req.VolumePath)
	if err != nil {
		return nil, wrap(err)
	}
	if !found.IsDir() {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: r.Size}}}, nil
	}
	var space syscall.Statfs_t
	if err := syscall.Statfs(req.VolumePath, &space); err != nil {
		return nil, wrap(err)
	}
	block := space.Bsize
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(space.Blocks) * block, Available: int64(space.Bavail) * block, Used: int64(space.Blocks-space.Bfree) * block},
		{Unit: csi.VolumeUsage_INODES, Total: int64(space.Files), Available: int64(space.Ffree), Used: int64(space.Files - space.Ffree)},
	}}, nil
}
