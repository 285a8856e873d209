// SPDX-License-Identifier: Apache-2.0
import LinuxSystem

typealias Arguments = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>

/// What the user wants.
struct Options {
    enum Command {
        case show, watch, exec, mark, features, status, help
    }

    /// How the tally is read.
    enum Via {
        case auto, page, cpuid
    }

    var command = Command.show
    var via = Via.auto
    var json = false
    var force = false
    var cpu: UInt32?
    /// Milliseconds between two lines of `watch`, and how many lines; 0: for ever.
    var interval: UInt64 = 1000
    var count: UInt64 = 0
    /// `exec`'s command, where it begins in the arguments.
    var program: Arguments?

    /// nil: the user has been told what is wrong.
    init?(_ count: Int, _ arguments: Arguments) {
        var index = 1
        while index < count, let word = arguments[index] {
            index += 1
            if word.is("show") {
                command = .show
            } else if word.is("watch") {
                command = .watch
            } else if word.is("exec") {
                command = .exec
            } else if word.is("mark") {
                command = .mark
            } else if word.is("features") {
                command = .features
            } else if word.is("status") {
                guard index < count, let value = arguments[index]?.number, value < 256 else {
                    complain("needs a number from 0 to 255: ", word)
                    return nil
                }
                index += 1
                command = .status
                self.count = value
            } else if word.is("--help") || word.is("-h") || word.is("help") {
                command = .help
            } else if word.is("--json") {
                json = true
            } else if word.is("--force") {
                force = true
            } else if word.is("--via") {
                guard index < count, let way = arguments[index], let via = Via(way) else {
                    complain("needs page, cpuid or auto: ", word)
                    return nil
                }
                index += 1
                self.via = via
            } else if word.is("--cpu") || word.is("--interval") || word.is("--count") {
                guard index < count, let value = arguments[index]?.number else {
                    complain("needs a number: ", word)
                    return nil
                }
                index += 1
                if word.is("--cpu") {
                    cpu = UInt32(truncatingIfNeeded: value)
                } else if word.is("--interval") {
                    interval = value
                } else {
                    self.count = value
                }
            } else if word.is("--") || command == .exec && word[0] != 0x2D {
                program = arguments + (word.is("--") ? index : index - 1)
                break
            } else {
                complain("unknown word, see --help: ", word)
                return nil
            }
        }
        if command == .exec, program?[0] == nil {
            complain("exec needs a command: vmtally-probe exec -- CMD", nil)
            return nil
        }
    }
}

extension Options.Via {
    init?(_ word: UnsafeMutablePointer<CChar>) {
        if word.is("auto") {
            self = .auto
        } else if word.is("page") {
            self = .page
        } else if word.is("cpuid") {
            self = .cpuid
        } else {
            return nil
        }
    }
}

func complain(_ text: StaticString, _ word: UnsafeMutablePointer<CChar>?) {
    var output = Output(2)
    output.put("vmtally-probe: ")
    output.put(text)
    if let word { output.put(word) }
    output.put("\n")
    output.flush()
}

extension UnsafeMutablePointer<CChar> {
    func `is`(_ text: StaticString) -> Bool {
        let count = text.utf8CodeUnitCount
        for index in 0..<count where UInt8(bitPattern: self[index]) != text.utf8Start[index] {
            return false
        }
        return self[count] == 0
    }

    /// A decimal number of up to 9 digits.
    var number: UInt64? {
        var value: UInt64 = 0
        var index = 0
        while self[index] != 0 {
            let digit = UInt8(bitPattern: self[index]) &- 0x30
            guard digit < 10, index < 9 else { return nil }
            value = value * 10 + UInt64(digit)
            index += 1
        }
        return index > 0 ? value : nil
    }
}
