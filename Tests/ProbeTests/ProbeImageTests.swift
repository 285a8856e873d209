import ProbeImage
import Testing

@Suite struct ProbeImageTests {
    @Test func isELF() {
        #expect(ProbeImage.elf.starts(with: [0x7F, 0x45, 0x4C, 0x46]))
    }
}
