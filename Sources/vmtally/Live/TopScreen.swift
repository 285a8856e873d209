// SPDX-License-Identifier: Apache-2.0
import CNCurses
import Glibc
import Reports

/// The terminal while `vmtally top` has it.
final class TopScreen {
    private let screen: OpaquePointer
    private let window: UnsafeMutablePointer<WINDOW>
    private var isOpen = true

    /// - Throws: when standard output is no terminal that ncurses knows.
    init() throws {
        setlocale(LC_ALL, "")
        // Whoever started us may have held it back: no change of size would be seen.
        var resizes = sigset_t()
        sigemptyset(&resizes)
        sigaddset(&resizes, SIGWINCH)
        pthread_sigmask(SIG_UNBLOCK, &resizes, nil)
        guard isatty(STDIN_FILENO) != 0, isatty(STDOUT_FILENO) != 0 else {
            throw Failure("standard input and output are not a terminal: give --batch")
        }
        // initscr() would end the process on a terminal that it does not know.
        guard let output = fdopen(dup(STDOUT_FILENO), "w"), let input = fdopen(dup(STDIN_FILENO), "r"),
            let screen = newterm(nil, output, input)
        else {
            throw Failure("ncurses knows no terminal \(getenv("TERM").map { String(cString: $0) } ?? ""): give --batch")
        }
        self.screen = screen
        guard let window = newwin(0, 0, 0, 0) else {
            endwin()
            delscreen(screen)
            throw Failure("ncurses has no memory")
        }
        self.window = window
        cbreak()
        noecho()
        curs_set(0)
        keypad(window, true)
        // Esc is a key of its own here: no waiting for what might follow it.
        set_escdelay(25)
    }

    deinit {
        close()
    }

    /// Gives the terminal back.
    func close() {
        guard isOpen else { return }
        isOpen = false
        delwin(window)
        endwin()
        delscreen(screen)
    }

    /// ncurses counts in 16 bits: a terminal that says it is larger has less than nothing there.
    var size: (width: Int, height: Int) { (max(0, Int(getmaxx(window))), max(0, Int(getmaxy(window)))) }

    func show(_ lines: [TopView.Line]) {
        werase(window)
        let (width, height) = size
        for (row, line) in lines.prefix(height).enumerated() {
            if line.isBold { wattr_on(window, bold, nil) }
            if line.isChosen { wattr_on(window, reverse, nil) }
            // Cut at the edge: a line that wraps would push the others down.
            mvwaddnstr(window, Int32(row), 0, String(line.text.prefix(width)), -1)
            wattr_off(window, bold | reverse, nil)
        }
        wrefresh(window)
    }

    /// Waits for a key, at most so long; nil when none came.
    func key(milliseconds: Int32) -> Key? {
        wtimeout(window, milliseconds)
        let code = wgetch(window)
        switch code {
        case -1: return nil
        case 0o402: return .down
        case 0o403: return .up
        case 0o527, 10, 13: return .enter
        case 0o407, 127, 8: return .backspace
        case 0o632: return .resize
        case 27: return .escape
        case 32...126: return .text(Character(UnicodeScalar(UInt8(code))))
        default: return .other
        }
    }

    enum Key: Equatable {
        case up, down, enter, escape, backspace, resize, other
        case text(Character)
    }

    // NCURSES_BITS(1, 13) and (1, 10), which Swift does not import.
    private let bold: attr_t = 1 << (13 + 8)
    private let reverse: attr_t = 1 << (10 + 8)
}
