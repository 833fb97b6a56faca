package main

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	mib = int64(1) << 20
	// What mkfs.xfs makes a file system of, and a volume that is asked for without a size.
	smallest  = 16 * mib
	unlimited = 1024 * mib
)

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return response, nil
}

// The bytes of a volume: whole MiB, at least what its source has.
func sizeOf(wanted *csi.CapacityRange, least int64) (int64, error) {
	size, limit := max(wanted.GetRequiredBytes(), least, smallest), wanted.GetLimitBytes()
	if wanted.GetRequiredBytes() == 0 && least == 0 {
		size = unlimited
		if limit > 0 {
			size = min(size, limit)
		}
	}
	size = (size + mib - 1) / mib * mib
	if limit > 0 && size > limit {
		return 0, status.Errorf(codes.OutOfRange, "%d bytes are over the limit of %d", size, limit)
	}
	return size, nil
}

func key() string { return *driverName + "/node" }

func topology(node string) *csi.Topology {
	return &csi.Topology{Segments: map[string]string{key(): node}}
}

// The node that the scheduler has chosen, else the first that is allowed, else this one.
func nodeOf(wanted *csi.TopologyRequirement) string {
	for _, one := range append(wanted.GetPreferred(), wanted.GetRequisite()...) {
		if node := one.GetSegments()[key()]; node != "" {
			return node
		}
	}
	return *nodeID
}

func (d *driver) CreateVolume(_ context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if req.Name == "" || len(req.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a name and capabilities are needed")
	}
	answer := func(r *record) *csi.CreateVolumeResponse {
		return &csi.CreateVolumeResponse{Volume: &csi.Volume{
			VolumeId: r.ID, CapacityBytes: r.Size, ContentSource: req.VolumeContentSource, AccessibleTopology: []*csi.Topology{topology(r.Node)},
		}}
	}
	id := idOf("vol", req.Name)
	if r, err := load(volumes, id); err == nil {
		if wanted := req.CapacityRange; r.Size < wanted.GetRequiredBytes() || (wanted.GetLimitBytes() > 0 && r.Size > wanted.GetLimitBytes()) {
			return nil, status.Error(codes.AlreadyExists, "a volume of that name has another size")
		}
		return answer(r), nil
	}
	var from string
	var least int64
	switch source := req.VolumeContentSource.GetType().(type) {
	case *csi.VolumeContentSource_Snapshot:
		r, err := load(snapshots, source.Snapshot.SnapshotId)
		if err != nil {
			return nil, wrap(err)
		}
		from, least = image(snapshots, r.ID), r.Size
	case *csi.VolumeContentSource_Volume:
		r, err := load(volumes, source.Volume.VolumeId)
		if err != nil {
			return nil, wrap(err)
		}
		from, least = image(volumes, r.ID), r.Size
	}
	size, err := sizeOf(req.CapacityRange, least)
	if err != nil {
		return nil, err
	}
	made := &record{ID: id, Name: req.Name, Size: size, Node: nodeOf(req.AccessibilityRequirements), Created: time.Now()}
	err = create(volumes, made, func(img string) error {
		if from != "" {
			return copyImage(from, img)
		}
		return os.WriteFile(img, nil, 0o600)
	})
	if err != nil {
		return nil, err
	}
	return answer(made), nil
}

func (d *driver) DeleteVolume(_ context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if device, _ := loopOf(image(volumes, req.VolumeId)); device != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "the volume is in use: %s", device)
	}
	return &csi.DeleteVolumeResponse{}, wrap(os.RemoveAll(dirOf(volumes, req.VolumeId)))
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, err := load(volumes, req.VolumeId); err != nil {
		return nil, wrap(err)
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: req.VolumeCapabilities}}, nil
}

func (d *driver) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	var found syscall.Statfs_t
	if err := syscall.Statfs(*stateDir, &found); err != nil {
		return nil, wrap(err)
	}
	return &csi.GetCapacityResponse{AvailableCapacity: int64(found.Bavail) * found.Bsize, MinimumVolumeSize: wrapperspb.Int64(smallest)}, nil
}

func snapshotOf(r *record) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: r.ID, SourceVolumeId: r.Source, SizeBytes: r.Size, CreationTime: timestamppb.New(r.Created), ReadyToUse: true}
}

func (d *driver) CreateSnapshot(_ context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if req.Name == "" {
		return nil, status.Error(codes.InvalidArgument, "a name is needed")
	}
	id := idOf("snap", req.Name)
	if r, err := load(snapshots, id); err == nil {
		if r.Source != req.SourceVolumeId {
			return nil, status.Error(codes.AlreadyExists, "a snapshot of that name is of another volume")
		}
		return &csi.CreateSnapshotResponse{Snapshot: snapshotOf(r)}, nil
	}
	volume, err := load(volumes, req.SourceVolumeId)
	if err != nil {
		return nil, wrap(err)
	}
	made := &record{ID: id, Name: req.Name, Size: volume.Size, Source: volume.ID, Created: time.Now()}
	if err := create(snapshots, made, func(img string) error { return copyImage(image(volumes, volume.ID), img) }); err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshotOf(made)}, nil
}

func (d *driver) DeleteSnapshot(_ context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if req.SnapshotId == "" {
		return nil, status.Error(codes.InvalidArgument, "an id is needed")
	}
	return &csi.DeleteSnapshotResponse{}, wrap(os.RemoveAll(dirOf(snapshots, req.SnapshotId)))
}

func (d *driver) ListSnapshots(_ context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*csi.ListSnapshotsResponse_Entry
	for _, r := range list(snapshots) {
		if (req.SnapshotId == "" || req.SnapshotId == r.ID) && (req.SourceVolumeId == "" || req.SourceVolumeId == r.Source) {
			all = append(all, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshotOf(r)})
		}
	}
	start := 0
	if req.StartingToken != "" {
		n, err := strconv.Atoi(req.StartingToken)
		if err != nil || n < 0 || n > len(all) {
			return nil, status.Errorf(codes.Aborted, "%q is no token of this list", req.StartingToken)
		}
		start = n
	}
	response := &csi.ListSnapshotsResponse{Entries: all[start:]}
	if n := int(req.MaxEntries); n > 0 && start+n < len(all) {
		response.Entries, response.NextToken = all[start:start+n], strconv.Itoa(start+n)
	}
	return response, nil
}

func (d *driver) ControllerExpandVolume(_ context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := load(volumes, req.VolumeId)
	if err != nil {
		return nil, wrap(err)
	}
	size, err := sizeOf(req.CapacityRange, r.Size)
	if err != nil {
		return nil, err
	}
	if size > r.Size {
		if err := os.Truncate(image(volumes, r.ID), size); err != nil {
			return nil, wrap(err)
		}
		r.Size = size
		if err := save(volumes, r); err != nil {
			return nil, wrap(err)
		}
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: r.Size, NodeExpansionRequired: true}, nil
}
