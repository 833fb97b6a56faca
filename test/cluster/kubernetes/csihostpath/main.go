// Command csihostpath is a CSI driver for the nodes of one machine, for tests: a volume is a sparse file, a file system on
// it or (Block) a loop device over it. It has snapshots, restore, clones, expansion and topology, and registers itself with
// the kubelet. The driver of every node has the same state directory, so any of them makes and deletes the volumes of all;
// a volume is staged only on the node that its record names.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const version = "0.2.0"

var (
	driverName = flag.String("name", "hostpath.csi.test", "driver name")
	endpoint   = flag.String("endpoint", "", "CSI socket")
	registry   = flag.String("registry", "/var/lib/kubelet/plugins_registry", "directory of sockets where the kubelet looks for plugins")
	stateDir   = flag.String("state", "", "where the volumes lie, the same for all nodes")
	nodeID     = flag.String("node", "", "node name")
)

// The lock is held for a whole call: a call reads a record, runs programs, and writes the record.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	mu sync.Mutex
}

func main() {
	flag.Parse()
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	if *endpoint == "" || *stateDir == "" || *nodeID == "" {
		log.Fatal("-endpoint, -state and -node are needed")
	}
	if err := prepare(); err != nil {
		log.Fatal(err)
	}
	d := &driver{}
	server := grpc.NewServer(grpc.UnaryInterceptor(logCall))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	go serve(server, *endpoint)

	registrar := grpc.NewServer()
	registerapi.RegisterRegistrationServer(registrar, &registration{})
	go serve(registrar, filepath.Join(*registry, *driverName+"-reg.sock"))

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	registrar.Stop()
	server.GracefulStop()
}

func serve(server *grpc.Server, path string) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		log.Fatal(err)
	}
	os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

func logCall(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	response, err := next(ctx, request)
	method := filepath.Base(info.FullMethod)
	if method != "Probe" && method != "GetCapacity" && !strings.HasSuffix(method, "Capabilities") {
		log.Printf("%s %v -> %v %v", method, request, response, err)
	}
	return response, err
}

// What node-driver-registrar does elsewhere.
type registration struct {
	registerapi.UnimplementedRegistrationServer
}

func (registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: *driverName, Endpoint: *endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

func (registration) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	log.Printf("registered: %v %s", s.PluginRegistered, s.Error)
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: *driverName, VendorVersion: version}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}
