// Vsockprobe asks the box that it runs on for its status over vsock, as a host
// would its guest. CID 1 is the loopback (VMADDR_CID_LOCAL, vsock(7)).
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/fogwright/fogwright/initramfs/control"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := control.DialVsock(1)
	defer c.Close()
	s, err := c.Status(ctx)
	if err != nil {
		fmt.Println("vsockprobe:", err)
		os.Exit(1)
	}
	fmt.Println("over vsock:", s.Board.Name, s.State)
}
