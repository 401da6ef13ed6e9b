package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// qmp is a connection to QEMU's control socket: one JSON object per line, a
// greeting first, then answers in the order of commands and events in between
// (QEMU, docs/interop/qmp-spec).
type qmp struct {
	conn    net.Conn
	answers chan qmpMessage
	done    chan struct{}

	commands sync.Mutex // one at a time

	mu     sync.Mutex
	events []string
}

type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Event  string          `json:"event"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// maxEvents bounds the list of events; a machine that resets in a loop makes
// many.
const maxEvents = 1000

// qmpPatience is how long QEMU's main loop may be busy; under emulation and load
// it is for seconds.
const qmpPatience = 30 * time.Second

// newQMP greets over a connection to the socket.
func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, answers: make(chan qmpMessage, 1), done: make(chan struct{})}
	go q.read()
	if _, err := q.answer(); err != nil {
		return nil, errors.Join(err, q.Close())
	}
	if err := q.do("qmp_capabilities", nil); err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return q, nil
}

func (q *qmp) read() {
	defer close(q.done)
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m qmpMessage
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return
		}
		if m.Event != "" {
			q.mu.Lock()
			if len(q.events) < maxEvents {
				q.events = append(q.events, m.Event)
			}
			q.mu.Unlock()
			continue
		}
		select {
		case q.answers <- m:
		default:
			return // an answer that nobody asked for
		}
	}
}

func (q *qmp) answer() (qmpMessage, error) {
	t := time.NewTimer(qmpPatience)
	defer t.Stop()
	select {
	case m := <-q.answers:
		if m.Error != nil {
			return m, fmt.Errorf("QEMU says %s: %s", m.Error.Class, m.Error.Desc)
		}
		return m, nil
	case <-q.done:
		return qmpMessage{}, errors.New("QEMU closed its control socket")
	case <-t.C:
		q.conn.Close() // an answer that comes later would be taken for another's
		return qmpMessage{}, fmt.Errorf("QEMU has not answered on its control socket for %v", qmpPatience)
	}
}

// do runs one command.
func (q *qmp) do(command string, arguments map[string]any) error {
	q.commands.Lock()
	defer q.commands.Unlock()
	m := map[string]any{"execute": command}
	if arguments != nil {
		m["arguments"] = arguments
	}
	b, err := json.Marshal(m)
	if err == nil {
		_, err = q.conn.Write(append(b, '\n'))
	}
	if err == nil {
		_, err = q.answer()
	}
	if err != nil {
		return fmt.Errorf("QEMU command %s: %w", command, err)
	}
	return nil
}

func (q *qmp) seen() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.events)
}

func (q *qmp) Close() error {
	err := q.conn.Close()
	<-q.done
	return err
}
