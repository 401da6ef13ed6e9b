// Program is what the bill of materials' tests look into: a program with a few
// modules, one of them with upper-case letters in its path.
package main

import (
	"fmt"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

func main() {
	var g errgroup.Group
	fmt.Println(cmp.Equal(cdx.NewBOM(), nil), g.Wait())
}
